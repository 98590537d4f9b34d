// Pre-tokens: the pieces of a text that BPE never joins. As in the regular expression of ECMAScript
//   '(?:s|t|re|ve|m|ll|d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) |
//   \s+
// (with a space before the second "?" of a line), the first alternative that fits is taken, and no character is left
// out.
#pragma once

#include <cstddef>
#include <string_view>

namespace vkmoe::text {

// The number of bytes of the piece at the start of `text`, which is UTF-8 and not empty.
size_t preTokenBytes(std::string_view text);

}  // namespace vkmoe::text
