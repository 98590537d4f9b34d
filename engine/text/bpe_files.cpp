#include "engine/formats/checked.h"
#include "engine/text/bpe_model.h"
#include "engine/text/tokenizer_json.h"
#include "host/file.h"
#include "vkmoe/text_codec.h"

namespace vkmoe {
inline namespace v1 {
namespace {

Result<BpeCodec> read(const ByteSource& file, const SpecialNames& special) {
    VKMOE_TRY(parts, text::readTokenizer(file));
    return BpeCodec::create(file.name(), parts.vocabulary, parts.merges, special);
}

}  // namespace

Result<BpeCodec> BpeCodec::load(const std::string& path, const SpecialNames& special) {
    VKMOE_TRY(file, openFile(path));
    return read(*file, special);
}

Result<BpeCodec> BpeCodec::parse(const std::string& name, std::string_view json, const SpecialNames& special) {
    const auto bytes = std::as_bytes(std::span(json));
    return read(*memorySource(name, {bytes.begin(), bytes.end()}), special);
}

Result<BpeCodec> BpeCodec::loadPair(const std::string& vocab_path, const std::string& merges_path,
                                    const SpecialNames& special) {
    VKMOE_TRY(file, openFile(vocab_path));
    VKMOE_TRY(vocabulary, text::readVocabulary(*file));
    VKMOE_TRY(lines, readFile(merges_path, kMaxFileBytes));
    const std::string_view text(reinterpret_cast<const char*>(lines.data()), lines.size());
    VKMOE_TRY(merges, text::readMergeLines(merges_path, text));
    // An error is the fault of the file that it is about.
    VKMOE_TRY(without_merges, create(vocab_path, vocabulary, {}, special));
    if (merges.empty()) return without_merges;
    return create(merges_path, vocabulary, merges, special);
}

std::string BpeCodec::json() const { return text::writeTokenizer(model_->tokens, model_->merges); }

Result<void> BpeCodec::save(const std::string& path) const {
    const std::string text = json();
    return writeFile(path, std::as_bytes(std::span(text)));
}

}  // namespace v1
}  // namespace vkmoe
