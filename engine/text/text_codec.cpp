#include "vkmoe/text_codec.h"

#include <algorithm>
#include <filesystem>

namespace vkmoe {
inline namespace v1 {

std::vector<uint32_t> TextCodec::encode(std::string_view text, bool add_bos, bool add_eos) const {
    std::vector<uint32_t> ids;
    if (add_bos && bos()) ids.push_back(*bos());
    appendIds(text, ids);
    if (add_eos && eos()) ids.push_back(*eos());
    return ids;
}

std::string TextCodec::decodeBytes(std::span<const uint32_t> ids) const {
    std::string bytes;
    for (const uint32_t id : ids) appendBytes(id, bytes);
    return bytes;
}

void ByteCodec::appendBytes(uint32_t id, std::string& bytes) const {
    if (id < 256) bytes += static_cast<char>(id);
}

void ByteCodec::appendIds(std::string_view text, std::vector<uint32_t>& ids) const {
    const size_t begin = ids.size();
    ids.resize(begin + text.size());
    std::transform(text.begin(), text.end(), ids.begin() + static_cast<ptrdiff_t>(begin),
                   [](char byte) { return static_cast<unsigned char>(byte); });
}

std::vector<uint32_t> padOrTruncate(std::span<const uint32_t> ids, size_t length, uint32_t pad_id, PadSide side) {
    const std::span<const uint32_t> kept = ids.first(std::min(length, ids.size()));
    std::vector<uint32_t> out(kept.begin(), kept.end());
    out.insert(side == PadSide::right ? out.end() : out.begin(), length - kept.size(), pad_id);
    return out;
}

Result<std::unique_ptr<TextCodec>> openCodec(const std::string& path) {
    if (path == "bytes") return std::unique_ptr<TextCodec>(std::make_unique<ByteCodec>());
    const std::filesystem::path folder = path;
    std::error_code no_such;
    const auto codec = [&]() -> Result<BpeCodec> {
        if (!std::filesystem::is_directory(folder, no_such)) return BpeCodec::load(path);
        const std::filesystem::path whole = folder / "tokenizer.json", vocabulary = folder / "vocab.json";
        if (std::filesystem::exists(whole, no_such) || !std::filesystem::exists(vocabulary, no_such))
            return BpeCodec::load(whole.string());
        return BpeCodec::loadPair(vocabulary.string(), (folder / "merges.txt").string());
    }();
    if (!codec) return codec.error();
    return std::unique_ptr<TextCodec>(std::make_unique<BpeCodec>(codec.value()));
}

}  // namespace v1
}  // namespace vkmoe
