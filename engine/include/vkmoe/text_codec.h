// TextCodec: text to token ids and back. Two codecs: bytes, and byte-pair encoding (BPE) that is trained on a corpus or
// read from a tokenizer.json.
//
// Text is UTF-8. Where BPE meets bytes that are not, it takes each as U+FFFD: one for each longest beginning of a
// character, as browsers decode and as the Unicode standard recommends. checkUtf8 is for those who would rather refuse.
//
// Codecs do not change once made; any number of threads may use one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

// The offset of the first byte that belongs to no complete UTF-8 character; nothing if all do. Overlong forms,
// surrogates and what is above U+10FFFF are no characters.
std::optional<uint64_t> checkUtf8(std::string_view text);

// The text with U+FFFD where it is not UTF-8.
std::string repairUtf8(std::string_view text);

class TextCodec {
public:
    virtual ~TextCodec() = default;

    virtual std::string name() const = 0;    // "bytes", or the file that it was read from
    virtual uint32_t vocabSize() const = 0;  // the number of tokens
    virtual uint32_t idLimit() const = 0;    // every id is below this: vocabSize() unless a file leaves ids out
    virtual std::optional<uint32_t> bos() const { return {}; }
    virtual std::optional<uint32_t> eos() const { return {}; }
    virtual std::optional<uint32_t> pad() const { return {}; }

    // A codec without the token adds none. Special tokens that are written out in the text are ordinary text.
    std::vector<uint32_t> encode(std::string_view text, bool add_bos = false, bool add_eos = false) const;

    // Always UTF-8: U+FFFD replaces what is not, and a byte order mark in front is dropped. Unknown ids are skipped.
    std::string decode(std::span<const uint32_t> ids) const;

    // What decode makes text of: the tokens' bytes, unchanged. Encoded UTF-8 comes back exactly.
    std::string decodeBytes(std::span<const uint32_t> ids) const;

    // Appends the bytes of one token; of an unknown id none.
    virtual void appendBytes(uint32_t id, std::string& bytes) const = 0;

protected:
    virtual void appendIds(std::string_view text, std::vector<uint32_t>& ids) const = 0;
};

// Ids are bytes. Any bytes come back exactly from decodeBytes.
class ByteCodec : public TextCodec {
public:
    std::string name() const override { return "bytes"; }
    uint32_t vocabSize() const override { return 256; }
    uint32_t idLimit() const override { return 256; }
    void appendBytes(uint32_t id, std::string& bytes) const override;

protected:
    void appendIds(std::string_view text, std::vector<uint32_t>& ids) const override;
};

// How the special tokens are called. A tokenizer.json does not tell which is which.
struct SpecialNames {
    std::string unk = "<unk>", bos = "<|im_start|>", eos = "<|im_end|>", pad = "<|endoftext|>";
};

struct BpeTraining {
    uint32_t merges = 200;       // at most; training ends early where no pair is frequent enough
    uint64_t min_frequency = 2;  // of a pair that is merged; 0 counts as 1
    SpecialNames special;
};

// Byte-level BPE: the merges and ids of the reference engine's tokenizer. What is a letter or a number is as in
// Unicode 17, whatever the machine's ICU library knows (from version 72 on): ids are the same everywhere.
class BpeCodec : public TextCodec {
public:
    using Token = std::pair<std::string, uint32_t>;     // its name in the byte alphabet, its id
    using Merge = std::pair<std::string, std::string>;  // the names of its two halves

    // Learns merges from texts. Ids: unk, bos, eos, pad, the 256 bytes, then the merged strings in order.
    static BpeCodec train(std::span<const std::string_view> corpus, const BpeTraining& training = {});
    static BpeCodec train(std::string_view text, const BpeTraining& training = {});

    // Of a vocabulary and merges, the first of which is the strongest. `name` stands for them in errors. Errors: a
    // token or an id is there twice, an id is above kMaxIds, a half is empty or is neither a byte, nor a token, nor
    // the result of an earlier merge. A merge that is there twice has its later rank, as in the reference.
    static Result<BpeCodec> create(std::string name, std::span<const Token> vocabulary, std::span<const Merge> merges,
                                   const SpecialNames& special = {});

    // A Hugging Face tokenizer.json: model.vocab and model.merges ("a b" or ["a", "b"]), or both without "model".
    // All else in it (normalizer, pre-tokenizer, added tokens) is skipped, as the reference does.
    static Result<BpeCodec> load(const std::string& path, const SpecialNames& special = {});
    static Result<BpeCodec> parse(const std::string& name, std::string_view json, const SpecialNames& special = {});

    // The plain pair: an object of tokens and ids, and a text with a merge on each line; lines with # are comments.
    static Result<BpeCodec> loadPair(const std::string& vocab_path, const std::string& merges_path,
                                     const SpecialNames& special = {});

    // Writes the file that load reads; the special tokens' names are not in it.
    Result<void> save(const std::string& path) const;
    std::string json() const;

    std::string name() const override;
    uint32_t vocabSize() const override;
    uint32_t idLimit() const override;
    std::optional<uint32_t> bos() const override;
    std::optional<uint32_t> eos() const override;
    std::optional<uint32_t> pad() const override;
    void appendBytes(uint32_t id, std::string& bytes) const override;

    std::span<const Merge> merges() const;                     // in order
    std::optional<std::string_view> token(uint32_t id) const;  // its name
    std::optional<uint32_t> id(std::string_view token) const;

    static constexpr uint32_t kMaxIds = uint32_t{1} << 20;
    static constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

    struct Model;  // the library's own

protected:
    void appendIds(std::string_view text, std::vector<uint32_t>& ids) const override;

private:
    explicit BpeCodec(std::shared_ptr<const Model> model);

    std::shared_ptr<const Model> model_;
};

enum class PadSide { right, left };

// The first `length` ids, or all of them and pads to that length on one side.
std::vector<uint32_t> padOrTruncate(std::span<const uint32_t> ids, size_t length, uint32_t pad_id,
                                    PadSide side = PadSide::right);

// Decodes ids as they come, and gives out whole characters only: half a character waits for its rest. All the pieces
// together are what decode makes of all the ids.
class StreamDecoder {
public:
    explicit StreamDecoder(const TextCodec& codec) : codec_(codec) {}  // which must outlive it

    std::string put(uint32_t id);
    std::string finish();  // what waits, as U+FFFD; after this a new text begins

private:
    const TextCodec& codec_;
    std::string held_;
    bool begun_ = false;
};

// "bytes"; a tokenizer.json; or a folder that has one, or else vocab.json and merges.txt.
Result<std::unique_ptr<TextCodec>> openCodec(const std::string& path);

}  // namespace v1
}  // namespace vkmoe
