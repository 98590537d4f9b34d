// BPE training: which neighbours to merge, in order. Each merge is of the pair that is most frequent at the time; of
// equally frequent ones, of that which comes first in the list of words.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vkmoe::text {

struct WordCount {
    std::string_view word;
    uint64_t count = 0;
};

// The pre-tokens of texts, which are UTF-8, in the order of their first appearance.
std::vector<WordCount> countWords(std::span<const std::string_view> corpus);

// At most `merges`, each of a pair that is there at least `min_frequency` times, and once. Halves are bytes, not names.
// A pair can come twice, where its left or right half was made in two ways.
std::vector<std::pair<std::string, std::string>> learnMerges(std::span<const WordCount> words, uint32_t merges,
                                                             uint64_t min_frequency);

}  // namespace vkmoe::text
