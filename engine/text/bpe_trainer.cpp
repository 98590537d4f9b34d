#include "engine/text/bpe_trainer.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <queue>
#include <unordered_map>

#include "engine/text/pre_tokens.h"

namespace vkmoe::text {
namespace {

constexpr size_t kNone = SIZE_MAX;
constexpr uint32_t kGone = UINT32_MAX;

// The symbol that begins at a byte of the words, which lie one after the other.
struct Node {
    uint32_t symbol;
    uint32_t word;
    size_t previous, next;  // in the same word, or kNone
};

struct Pair {
    uint32_t left, right;
    uint64_t count = 0;
    std::vector<size_t> places;  // a heap, the first in front; some no longer hold the pair
};

// What a pair was when it last gained a place. It is no better since.
struct Candidate {
    uint64_t count;
    size_t first;
    uint32_t pair;

    bool operator==(const Candidate&) const = default;
    bool operator<(const Candidate& other) const {
        return count != other.count ? count < other.count : first > other.first;
    }
};

class Trainer {
public:
    explicit Trainer(std::span<const WordCount> words) : words_(words) {
        for (uint32_t byte = 0; byte < 256; ++byte) symbol(std::string(1, static_cast<char>(byte)));
        for (uint32_t word = 0; word < words.size(); ++word) {
            const size_t begin = nodes_.size(), end = begin + words[word].word.size();
            for (const char byte : words[word].word) {
                const size_t at = nodes_.size();
                nodes_.push_back({static_cast<unsigned char>(byte), word, at == begin ? kNone : at - 1,
                                  at + 1 == end ? kNone : at + 1});
            }
        }
        for (size_t at = 0; at < nodes_.size(); ++at)
            if (nodes_[at].next != kNone) gain(at);
        queueGained();
    }

    // The most frequent pair, the first of several; nothing if no word has two symbols.
    std::optional<Candidate> best() {
        while (!queue_.empty()) {
            const Candidate top = queue_.top();
            queue_.pop();
            if (pairs_[top.pair].count == 0) continue;
            const Candidate now = candidate(top.pair);
            if (now == top) return now;
            queue_.push(now);
        }
        return {};
    }

    std::pair<std::string, std::string> merge(uint32_t pair) {
        const auto halves = std::pair(symbols_[pairs_[pair].left], symbols_[pairs_[pair].right]);
        const uint32_t merged = symbol(halves.first + halves.second);
        std::vector<size_t> places = std::exchange(pairs_[pair].places, {});
        std::sort(places.begin(), places.end());
        for (const size_t at : places)
            if (holds(pair, at)) join(at, merged);
        queueGained();
        return halves;
    }

private:
    uint32_t symbol(const std::string& bytes) {
        const auto [at, added] = symbol_of_.try_emplace(bytes, static_cast<uint32_t>(symbols_.size()));
        if (added) symbols_.push_back(bytes);
        return at->second;
    }
    uint32_t pairAt(size_t at) {
        const uint32_t left = nodes_[at].symbol, right = nodes_[nodes_[at].next].symbol;
        const auto [found, added] =
            pair_of_.try_emplace(uint64_t{left} << 32 | right, static_cast<uint32_t>(pairs_.size()));
        if (added) pairs_.push_back({left, right});
        return found->second;
    }
    bool holds(uint32_t pair, size_t at) const {
        const Node& node = nodes_[at];
        return node.symbol == pairs_[pair].left && node.next != kNone && nodes_[node.next].symbol == pairs_[pair].right;
    }
    void gain(size_t at) {
        const uint32_t number = pairAt(at);
        Pair& pair = pairs_[number];
        pair.count += words_[nodes_[at].word].count;
        pair.places.push_back(at);
        std::push_heap(pair.places.begin(), pair.places.end(), std::greater<>());
        gained_.push_back(number);
    }
    void lose(size_t at) { pairs_[pairAt(at)].count -= words_[nodes_[at].word].count; }

    void join(size_t at, uint32_t merged) {
        const size_t previous = nodes_[at].previous, gone = nodes_[at].next, next = nodes_[gone].next;
        if (previous != kNone) lose(previous);
        lose(at);
        if (next != kNone) lose(gone);
        nodes_[gone].symbol = kGone;
        nodes_[at].symbol = merged;
        nodes_[at].next = next;
        if (next != kNone) nodes_[next].previous = at;
        if (previous != kNone) gain(previous);
        if (next != kNone) gain(at);
    }

    Candidate candidate(uint32_t number) {
        std::vector<size_t>& places = pairs_[number].places;
        while (!holds(number, places.front())) {
            std::pop_heap(places.begin(), places.end(), std::greater<>());
            places.pop_back();
        }
        return {pairs_[number].count, places.front(), number};
    }
    void queueGained() {
        std::sort(gained_.begin(), gained_.end());
        gained_.erase(std::unique(gained_.begin(), gained_.end()), gained_.end());
        for (const uint32_t pair : gained_)
            if (pairs_[pair].count > 0) queue_.push(candidate(pair));
        gained_.clear();
    }

    std::span<const WordCount> words_;
    std::vector<Node> nodes_;
    std::vector<std::string> symbols_;
    std::unordered_map<std::string, uint32_t> symbol_of_;
    std::vector<Pair> pairs_;
    std::unordered_map<uint64_t, uint32_t> pair_of_;
    std::priority_queue<Candidate> queue_;
    std::vector<uint32_t> gained_;
};

}  // namespace

std::vector<WordCount> countWords(std::span<const std::string_view> corpus) {
    std::vector<WordCount> words;
    std::unordered_map<std::string_view, size_t> places;
    for (std::string_view text : corpus)
        while (!text.empty()) {
            const std::string_view word = text.substr(0, preTokenBytes(text));
            text.remove_prefix(word.size());
            const auto [at, added] = places.try_emplace(word, words.size());
            if (added) words.push_back({word});
            ++words[at->second].count;
        }
    return words;
}

std::vector<std::pair<std::string, std::string>> learnMerges(std::span<const WordCount> words, uint32_t merges,
                                                             uint64_t min_frequency) {
    Trainer trainer(words);
    std::vector<std::pair<std::string, std::string>> learned;
    while (learned.size() < merges) {
        const std::optional<Candidate> best = trainer.best();
        if (!best || best->count < min_frequency) break;
        learned.push_back(trainer.merge(best->pair));
    }
    return learned;
}

}  // namespace vkmoe::text
