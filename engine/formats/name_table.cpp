#include "engine/formats/name_table.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace vkmoe::formats {
namespace {

size_t hashOf(std::string_view name) { return std::hash<std::string_view>()(name); }

}  // namespace

void NameTable::add(std::string_view name) {
    text_ += name;
    ends_.push_back(static_cast<uint32_t>(text_.size()));
}

std::string_view NameTable::operator[](size_t i) const {
    const size_t start = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(text_).substr(start, ends_[i] - start);
}

std::optional<size_t> NameTable::index() {
    std::vector<std::pair<size_t, uint32_t>> hashes;  // names of one hash are compared as texts, however many there are
    hashes.reserve(size());
    for (uint32_t i = 0; i < size(); ++i) hashes.emplace_back(hashOf((*this)[i]), i);
    std::sort(hashes.begin(), hashes.end(), [&](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : (*this)[a.second] < (*this)[b.second];
    });
    order_.clear();
    order_.reserve(size());
    for (const auto& [hash, i] : hashes) order_.push_back(i);
    for (size_t i = 1; i < size(); ++i)
        if (hashes[i].first == hashes[i - 1].first && (*this)[order_[i]] == (*this)[order_[i - 1]]) return order_[i];
    return {};
}

std::optional<size_t> NameTable::find(std::string_view name) const {
    const auto wanted = std::pair(hashOf(name), name);
    const auto at = std::lower_bound(order_.begin(), order_.end(), wanted, [&](uint32_t i, const auto& key) {
        return std::pair(hashOf((*this)[i]), (*this)[i]) < key;
    });
    if (at == order_.end() || (*this)[*at] != name) return {};
    return *at;
}

}  // namespace vkmoe::formats
