// MergeTable: which two neighbours join to which symbol, and how strong each merge is. A symbol is a string of bytes;
// the first 256 are the bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/text/token_table.h"

namespace vkmoe::text {

class MergeTable {
public:
    static constexpr uint32_t kNoRank = UINT32_MAX;

    struct Join {
        uint32_t rank = kNoRank;  // the lowest is the strongest
        uint32_t symbol = 0;      // the result
    };

    // Errors, without a file name: more than kMaxIds merges, a half is empty, not UTF-8, or unknown so far.
    static Result<MergeTable> create(std::span<const BpeCodec::Merge> merges, const TokenTable& tokens);

    Join join(uint32_t left, uint32_t right) const;
    uint32_t id(uint32_t symbol) const { return ids_[symbol]; }  // of its token, or kNoId

private:
    uint32_t symbol(const std::string& bytes);
    void add(const std::string& left, const std::string& right, uint32_t rank);

    std::unordered_map<std::string, uint32_t> symbols_;
    std::unordered_map<uint64_t, Join> joins_;
    std::vector<uint32_t> ids_;  // [symbols]
};

}  // namespace vkmoe::text
