// Language models as files: opening either kind, the codec that goes with one, and packing what was trained.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/formats/evl0.h"
#include "host/result.h"
#include "vkmoe/text_codec.h"

namespace vkmoe::program {

struct LmFile {
    formats::LmSource source;
    std::string codec;  // codecTag of the codec it was trained with, empty if the file does not say
};

// A package with a language model, or an EVL0 file. Warnings go to stderr.
Result<LmFile> openLm(const std::string& path, bool compat);
// The same; none where the file is neither, whatever else it may be.
Result<std::optional<LmFile>> findLm(const std::string& path, bool compat);
Result<LmFile> readLm(std::shared_ptr<const ByteSource> file, bool compat);

// Of a model's parameters: sixteen digits.
std::string fingerprint(std::span<const float> parameters);

// "codec:bytes", or "codec:bpe-" and a hash of its tokenizer.json.
std::string codecTag(const TextCodec& codec);

// The tokenizer.json that training leaves beside a model.
std::string tokenizerPath(const std::string& model);
std::string previousTokenizerPath(const std::string& model);  // the one that a new run put away

// The codec that was chosen (openCodec); else the tokenizer beside the model, else bytes. One with another number of
// tokens than the model's vocabulary, or one beside it that is not the model's own, is an error.
Result<std::unique_ptr<TextCodec>> codecFor(const std::string& path, const LmFile& model, const std::string& chosen);

// Puts the bytes of a package, front to back. `parameters` are in canonical order; `summary` is of the training here,
// empty if there was none.
Result<void> packLm(const std::string& name, const LmConfig& config, std::span<const float> parameters,
                    const std::string& codec_tag, const std::string& summary, const ByteSink& put);

}  // namespace vkmoe::program
