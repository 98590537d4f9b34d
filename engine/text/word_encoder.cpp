#include "engine/text/word_encoder.h"

#include <algorithm>
#include <functional>

namespace vkmoe::text {
namespace {

constexpr size_t kSeenWords = size_t{1} << 16;
constexpr size_t kNone = SIZE_MAX;

}  // namespace

void WordEncoder::put(std::string_view word) {
    if (const uint32_t id = tokens_.idOfBytes(word); id != kNoId) return ids_.push_back(id);
    const size_t begin = ids_.size();
    if (const auto seen = seen_.find(word); seen != seen_.end()) {
        const auto [from, count] = seen->second;
        ids_.resize(begin + count);
        std::copy_n(ids_.begin() + static_cast<ptrdiff_t>(from), count, ids_.begin() + static_cast<ptrdiff_t>(begin));
        return;
    }
    merge(word);
    emit(word);
    if (seen_.size() < kSeenWords) seen_.emplace(word, std::pair(begin, ids_.size() - begin));
}

// Candidates that a merge made obsolete stay in the queue: the node has another rank by then.
void WordEncoder::merge(std::string_view word) {
    nodes_.clear();
    queue_.clear();
    for (size_t at = 0; at < word.size(); ++at)
        nodes_.push_back({static_cast<unsigned char>(word[at]), MergeTable::kNoRank, at == 0 ? kNone : at - 1, at + 1});
    for (size_t at = 0; at < word.size(); ++at) rank(at);
    while (!queue_.empty()) {
        const auto [strength, at] = queue_.front();
        std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
        queue_.pop_back();
        if (nodes_[at].rank == strength) joinNext(at);
    }
}

void WordEncoder::rank(size_t at) {
    Node& node = nodes_[at];
    node.rank = MergeTable::kNoRank;
    if (node.next == nodes_.size()) return;
    node.rank = merges_.join(node.symbol, nodes_[node.next].symbol).rank;
    if (node.rank == MergeTable::kNoRank) return;
    queue_.emplace_back(node.rank, at);
    std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

void WordEncoder::joinNext(size_t at) {
    Node& node = nodes_[at];
    Node& gone = nodes_[node.next];
    node.symbol = merges_.join(node.symbol, gone.symbol).symbol;
    node.next = gone.next;
    gone.rank = MergeTable::kNoRank;
    if (node.next != nodes_.size()) nodes_[node.next].previous = at;
    rank(at);
    if (node.previous != kNone) rank(node.previous);
}

// A symbol that is no token is written byte by byte; a byte that is no token is left out.
void WordEncoder::emit(std::string_view word) {
    for (size_t at = 0; at < word.size(); at = nodes_[at].next) {
        if (const uint32_t id = merges_.id(nodes_[at].symbol); id != kNoId) {
            ids_.push_back(id);
            continue;
        }
        for (const char byte : word.substr(at, nodes_[at].next - at))
            if (const uint32_t id = merges_.id(static_cast<unsigned char>(byte)); id != kNoId) ids_.push_back(id);
    }
}

}  // namespace vkmoe::text
