#include "host/ram_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

namespace vkmoe {
inline namespace v1 {

bool allZero(std::span<const std::byte> bytes) {
    return bytes.empty() ||
           (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

Result<void> RamStore::read(PageId page, std::span<std::byte> into, std::vector<std::byte>&) const {
    assert(page < pages() && into.size() == page_bytes_);
    if (kept_[page].empty())
        std::fill(into.begin(), into.end(), std::byte{0});
    else
        std::copy(kept_[page].begin(), kept_[page].end(), into.begin());
    return {};
}

Result<void> RamStore::write(PageId page, std::span<const std::byte> from) try {
    assert(page < pages() && from.size() == page_bytes_);
    if (allZero(from))
        kept_[page] = {};
    else
        kept_[page].assign(from.begin(), from.end());
    return {};
} catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, fmt::format("no memory for page {}, {} bytes", page, page_bytes_)};
}

}  // namespace v1
}  // namespace vkmoe
