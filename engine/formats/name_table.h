// NameTable: many names in little memory, found fast and proved different.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vkmoe::formats {

class NameTable {
public:
    void add(std::string_view name);  // all names together have less than 4 GiB

    size_t size() const { return ends_.size(); }
    std::string_view operator[](size_t i) const;  // valid until the table changes or moves

    // To be called after add() and before find(). Returns a name that is there twice, if there is one.
    std::optional<size_t> index();
    // After index().
    std::optional<size_t> find(std::string_view name) const;

private:
    std::string text_;
    std::vector<uint32_t> ends_;   // of each name in `text_`
    std::vector<uint32_t> order_;  // names by hash, then by text
};

}  // namespace vkmoe::formats
