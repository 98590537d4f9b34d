// Corpus: the texts that a language model learns from, as tokens, and the sequences that are drawn from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/result.h"
#include "vkmoe/layer.h"
#include "vkmoe/lm_trainer.h"
#include "vkmoe/text_codec.h"

namespace vkmoe::program {

// A text whose beginning is learned from and whose end is kept for validation.
struct Text {
    std::string path, contents;
    uint64_t split = 0;  // bytes to learn from; where a character ends

    std::string_view training() const { return std::string_view(contents).substr(0, split); }
    std::string_view validation() const { return std::string_view(contents).substr(split); }
};

// A file, or the regular files of a folder (no links, no folders in it) in the order of their names. A text that is
// empty or not UTF-8 is an error that names file and offset. `validation` is the fraction that is kept, below 1;
// files of a folder that are `others` (what a run writes there) or temporary ones are no texts.
Result<std::vector<Text>> readTexts(const std::string& path, double validation, const std::vector<std::string>& others);

// "35149 bytes in 1 file, hash 0123456789abcdef": what two equal lists of texts have in common, and others not.
std::string fingerprint(const std::vector<Text>& texts);

class Corpus {
public:
    // A text with fewer than `context` tokens to learn from is an error.
    static Result<Corpus> encode(const std::vector<Text>& texts, const TextCodec& codec, uint32_t context);

    uint64_t tokens() const { return tokens_; }  // to learn from
    uint64_t windows() const { return ends_.empty() ? 0 : ends_.back(); }
    Sequence window(uint64_t index) const;  // `context` tokens that follow each other in one text

    // The ends of the texts cut into sequences of at most `context` tokens and at least 2: all of them, or as many as
    // `most`, evenly spread.
    const std::vector<Sequence>& validation() const { return validation_; }
    static constexpr size_t kMostValidation = 64;

private:
    uint32_t context_ = 0;
    uint64_t tokens_ = 0;
    std::vector<Sequence> texts_;
    std::vector<uint64_t> ends_;  // windows up to and with each text
    std::vector<Sequence> validation_;
};

// Random numbers whose whole state is one word: SplitMix64.
class Sampler {
public:
    explicit Sampler(uint64_t state) : state_(state) {}
    uint64_t state() const { return state_; }
    uint64_t below(uint64_t limit);  // 0 .. limit-1; of a limit below 2^32 each as likely to within 2^-32

private:
    uint64_t state_;
};

}  // namespace vkmoe::program
