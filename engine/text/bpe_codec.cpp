#include <algorithm>
#include <array>
#include <unordered_set>

#include "engine/formats/checked.h"
#include "engine/text/bpe_model.h"
#include "engine/text/bpe_trainer.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/pre_tokens.h"
#include "engine/text/word_encoder.h"
#include "vkmoe/text_codec.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// In the reference's language every object has these members, so it takes them for tokens that are there already.
constexpr std::array<std::string_view, 12> kNeverTokens = {
    "__defineGetter__", "__defineSetter__", "__lookupGetter__",     "__lookupSetter__", "__proto__", "constructor",
    "hasOwnProperty",   "isPrototypeOf",    "propertyIsEnumerable", "toLocaleString",   "toString",  "valueOf"};

// Gives names the ids 0, 1, ...: a name that is there keeps its first.
class Numbering {
public:
    void add(const std::string& name) {
        if (std::find(kNeverTokens.begin(), kNeverTokens.end(), name) != kNeverTokens.end()) return;
        if (there_.insert(name).second) tokens_.emplace_back(name, static_cast<uint32_t>(tokens_.size()));
    }
    std::span<const BpeCodec::Token> tokens() const { return tokens_; }

private:
    std::unordered_set<std::string> there_;
    std::vector<BpeCodec::Token> tokens_;
};

constexpr uint32_t kBaseTokens = 4 + 256;

// The corpus with what is not UTF-8 replaced; holds the texts that needed it.
class CleanCorpus {
public:
    explicit CleanCorpus(std::span<const std::string_view> corpus) : texts_(corpus.begin(), corpus.end()) {
        repaired_.reserve(corpus.size());
        for (std::string_view& text : texts_)
            if (checkUtf8(text)) text = repaired_.emplace_back(repairUtf8(text));
    }
    std::span<const std::string_view> texts() const { return texts_; }

private:
    std::vector<std::string_view> texts_;
    std::vector<std::string> repaired_;
};

}  // namespace

BpeCodec::BpeCodec(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

BpeCodec BpeCodec::train(std::span<const std::string_view> corpus, const BpeTraining& training) {
    const CleanCorpus clean(corpus);
    const std::vector<text::WordCount> words = text::countWords(clean.texts());
    const uint32_t most = std::min(training.merges, kMaxIds - kBaseTokens);
    std::vector<Merge> merges = text::learnMerges(words, most, std::max<uint64_t>(training.min_frequency, 1));
    const SpecialNames special = {repairUtf8(training.special.unk), repairUtf8(training.special.bos),
                                  repairUtf8(training.special.eos), repairUtf8(training.special.pad)};
    Numbering numbering;
    for (const std::string* name : {&special.unk, &special.bos, &special.eos, &special.pad}) numbering.add(*name);
    for (const uint8_t byte : text::bytesInOrder()) numbering.add(text::byteName(byte));
    for (auto& [left, right] : merges) {
        left = text::nameOfBytes(left);
        right = text::nameOfBytes(right);
        numbering.add(left + right);
    }
    Result<BpeCodec> codec = create("bpe", numbering.tokens(), merges, special);
    return std::move(codec).value();  // what was just learned has no errors
}

BpeCodec BpeCodec::train(std::string_view text, const BpeTraining& training) {
    return train(std::span(&text, 1), training);
}

Result<BpeCodec> BpeCodec::create(std::string name, std::span<const Token> vocabulary, std::span<const Merge> merges,
                                  const SpecialNames& special) {
    Result<text::TokenTable> tokens = text::TokenTable::create(vocabulary);
    if (!tokens) return formats::inFile(name, tokens.error());
    Result<text::MergeTable> table = text::MergeTable::create(merges, *tokens);
    if (!table) return formats::inFile(name, table.error());
    const auto id = [&](const std::string& token) { return tokens->id(token); };
    const std::optional<uint32_t> bos = id(special.bos), eos = id(special.eos), pad = id(special.pad);
    return BpeCodec(std::make_shared<const Model>(Model{std::move(name),
                                                        std::move(tokens).value(),
                                                        {merges.begin(), merges.end()},
                                                        std::move(table).value(),
                                                        bos,
                                                        eos,
                                                        pad}));
}

std::string BpeCodec::name() const { return model_->name; }
uint32_t BpeCodec::vocabSize() const { return static_cast<uint32_t>(model_->tokens.tokens().size()); }
uint32_t BpeCodec::idLimit() const { return model_->tokens.idLimit(); }
std::optional<uint32_t> BpeCodec::bos() const { return model_->bos; }
std::optional<uint32_t> BpeCodec::eos() const { return model_->eos; }
std::optional<uint32_t> BpeCodec::pad() const { return model_->pad; }
std::span<const BpeCodec::Merge> BpeCodec::merges() const { return model_->merges; }
std::optional<uint32_t> BpeCodec::id(std::string_view token) const { return model_->tokens.id(token); }

std::optional<std::string_view> BpeCodec::token(uint32_t id) const {
    const std::string* name = model_->tokens.name(id);
    if (!name) return {};
    return *name;
}

void BpeCodec::appendBytes(uint32_t id, std::string& bytes) const {
    if (const std::string* token = model_->tokens.bytes(id)) bytes += *token;
}

void BpeCodec::appendIds(std::string_view text, std::vector<uint32_t>& ids) const {
    std::string repaired;
    if (checkUtf8(text)) text = repaired = repairUtf8(text);
    text::WordEncoder encoder(model_->tokens, model_->table, ids);
    while (!text.empty()) {
        const size_t bytes = text::preTokenBytes(text);
        encoder.put(text.substr(0, bytes));
        text.remove_prefix(bytes);
    }
}

}  // namespace v1
}  // namespace vkmoe
