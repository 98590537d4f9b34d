#include "engine/text/merge_table.h"

#include <fmt/format.h>

#include <unordered_set>

#include "engine/formats/checked.h"
#include "engine/text/byte_alphabet.h"

namespace vkmoe::text {
namespace {

// What a merge may join: bytes, tokens, and the results of the merges before it.
class Known {
public:
    explicit Known(const TokenTable& tokens) : tokens_(tokens) {}

    bool has(const std::string& name, const NamedBytes& named) const {
        return (named.plain && named.bytes.size() == 1) || tokens_.id(name) || results_.contains(name);
    }
    void add(std::string result) { results_.insert(std::move(result)); }

private:
    const TokenTable& tokens_;
    std::unordered_set<std::string> results_;
};

Result<NamedBytes> half(const std::string& name, uint32_t rank, const Known& known) {
    const auto refused = [&](const std::string& why) {
        return Error{ErrorCode::bad_input, fmt::format("merges[{}] {}", rank, why)};
    };
    if (name.empty()) return refused("has an empty half");
    std::optional<NamedBytes> named = bytesOfName(name);
    if (!named) return refused("is not UTF-8");
    if (!known.has(name, *named))
        return refused(fmt::format("joins \"{}\", which is no token and no earlier merge", formats::shown(name)));
    return std::move(*named);
}

}  // namespace

Result<MergeTable> MergeTable::create(std::span<const BpeCodec::Merge> merges, const TokenTable& tokens) {
    if (merges.size() > BpeCodec::kMaxIds)
        return Error{ErrorCode::bad_input,
                     fmt::format("merges has {} entries, at most {} are read", merges.size(), BpeCodec::kMaxIds)};
    MergeTable table;
    for (uint32_t byte = 0; byte < 256; ++byte) table.symbol(std::string(1, static_cast<char>(byte)));
    Known known(tokens);
    for (uint32_t rank = 0; rank < merges.size(); ++rank) {
        const auto& [left, right] = merges[rank];
        VKMOE_TRY(first, half(left, rank, known));
        VKMOE_TRY(second, half(right, rank, known));
        known.add(left + right);
        // Text has symbols of the byte alphabet alone: other merges never happen.
        if (first.plain && second.plain) table.add(first.bytes, second.bytes, rank);
    }
    table.ids_.resize(table.symbols_.size());
    for (const auto& [bytes, symbol] : table.symbols_) table.ids_[symbol] = tokens.idOfBytes(bytes);
    return table;
}

uint32_t MergeTable::symbol(const std::string& bytes) {
    return symbols_.try_emplace(bytes, static_cast<uint32_t>(symbols_.size())).first->second;
}

void MergeTable::add(const std::string& left, const std::string& right, uint32_t rank) {
    const uint64_t key = uint64_t{symbol(left)} << 32 | symbol(right);
    joins_[key] = {rank, symbol(left + right)};
}

MergeTable::Join MergeTable::join(uint32_t left, uint32_t right) const {
    const auto found = joins_.find(uint64_t{left} << 32 | right);
    return found == joins_.end() ? Join{} : found->second;
}

}  // namespace vkmoe::text
