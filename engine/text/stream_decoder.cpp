#include "engine/text/utf8.h"
#include "vkmoe/text_codec.h"

namespace vkmoe {
inline namespace v1 {

std::string StreamDecoder::put(uint32_t id) {
    codec_.appendBytes(id, held_);
    std::string out;
    std::string_view rest = held_;
    while (!rest.empty()) {
        const text::Utf8Char c = text::firstChar(rest);
        if (c.kind == text::Utf8Char::Kind::cut) break;
        const std::string_view bytes = rest.substr(0, c.bytes);
        if (begun_ || bytes != text::kByteOrderMark)
            out += c.kind == text::Utf8Char::Kind::whole ? bytes : text::kReplacement;
        begun_ = true;
        rest.remove_prefix(c.bytes);
    }
    held_.erase(0, held_.size() - rest.size());
    return out;
}

std::string StreamDecoder::finish() {
    const std::string out(held_.empty() ? std::string_view() : text::kReplacement);
    held_.clear();
    begun_ = false;
    return out;
}

std::string TextCodec::decode(std::span<const uint32_t> ids) const {
    StreamDecoder decoder(*this);
    std::string text;
    for (const uint32_t id : ids) text += decoder.put(id);
    return text += decoder.finish();
}

}  // namespace v1
}  // namespace vkmoe
