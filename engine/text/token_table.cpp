#include "engine/text/token_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/checked.h"
#include "engine/text/byte_alphabet.h"

namespace vkmoe::text {
using formats::refused;

Result<TokenTable> TokenTable::create(std::span<const BpeCodec::Token> tokens) {
    TokenTable table;
    table.tokens_.assign(tokens.begin(), tokens.end());
    std::stable_sort(table.tokens_.begin(), table.tokens_.end(),
                     [](const auto& a, const auto& b) { return a.second < b.second; });
    for (const auto& [name, id] : table.tokens_)
        if (id >= BpeCodec::kMaxIds)
            return refused(fmt::format("vocab has the id {} of \"{}\", ids are below {}", id, formats::shown(name),
                                       BpeCodec::kMaxIds));
    VKMOE_CHECK(table.index());
    return table;
}

Result<void> TokenTable::index() {
    places_.assign(tokens_.empty() ? 0 : tokens_.back().second + 1, kNoId);
    bytes_.reserve(tokens_.size());  // the views below stay valid
    for (uint32_t place = 0; place < tokens_.size(); ++place) {
        const auto& [name, id] = tokens_[place];
        if (places_[id] != kNoId)
            return refused(fmt::format("vocab has the id {} twice: \"{}\" and \"{}\"", id,
                                       formats::shown(tokens_[places_[id]].first), formats::shown(name)));
        places_[id] = place;
        if (!by_name_.emplace(name, id).second)
            return refused(
                fmt::format("vocab has \"{}\" twice: ids {} and {}", formats::shown(name), by_name_.at(name), id));
        std::optional<NamedBytes> named = bytesOfName(name);
        if (!named) return refused(fmt::format("vocab has a token that is not UTF-8: id {}", id));
        bytes_.push_back(std::move(named->bytes));
        if (named->plain) by_bytes_.emplace(bytes_.back(), id);
    }
    return {};
}

const std::string* TokenTable::name(uint32_t id) const {
    return id < places_.size() && places_[id] != kNoId ? &tokens_[places_[id]].first : nullptr;
}

const std::string* TokenTable::bytes(uint32_t id) const {
    return id < places_.size() && places_[id] != kNoId ? &bytes_[places_[id]] : nullptr;
}

std::optional<uint32_t> TokenTable::id(std::string_view name) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return {};
    return found->second;
}

uint32_t TokenTable::idOfBytes(std::string_view bytes) const {
    const auto found = by_bytes_.find(bytes);
    return found == by_bytes_.end() ? kNoId : found->second;
}

}  // namespace vkmoe::text
