// WordEncoder: pre-tokens to ids. The words of one text come in turn; what it worked out for one it keeps for the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/text/merge_table.h"
#include "engine/text/token_table.h"

namespace vkmoe::text {

class WordEncoder {
public:
    // `ids` is appended to. All of these, and the words, must outlive the encoder.
    WordEncoder(const TokenTable& tokens, const MergeTable& merges, std::vector<uint32_t>& ids)
        : tokens_(tokens), merges_(merges), ids_(ids) {}

    void put(std::string_view word);

private:
    struct Node {  // of the symbol that begins at this byte
        uint32_t symbol;
        uint32_t rank;  // of joining it to the next, or kNoRank
        size_t previous, next;
    };
    using Candidate = std::pair<uint32_t, size_t>;  // rank, byte: the strongest merge, of equals the leftmost, is least

    void merge(std::string_view word);
    void rank(size_t at);
    void joinNext(size_t at);
    void emit(std::string_view word);

    const TokenTable& tokens_;
    const MergeTable& merges_;
    std::vector<uint32_t>& ids_;
    std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen_;  // where in ids_, how many
    std::vector<Node> nodes_;
    std::vector<Candidate> queue_;  // a heap
};

}  // namespace vkmoe::text
