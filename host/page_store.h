// PageStore: where pages come from, and where those that changed go back to.
//
// A page is what a kernel needs in one piece; how it is put together (ranges of a file, transforms) is the store's
// business. Pages of one store are numbered from 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/residency.h"
#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

class PageStore {
public:
    virtual ~PageStore() = default;

    virtual uint32_t pages() const = 0;
    virtual uint64_t pageBytes(PageId page) const = 0;  // a multiple of 256
    // Bytes that reading the page moves from its source.
    virtual uint64_t sourceBytes(PageId page) const = 0;

    // Tells that the page will be read soon, so that the disk may begin. Any number of threads may call at once.
    virtual void announce(PageId) const {}
    // Puts the page together in `into` (pageBytes of it, 256-byte aligned), as kernels read it. `scratch` is the
    // calling thread's own and keeps its memory from call to call. Any number of threads may call at once, for
    // different pages. Errors: io (the file, the offset), bad_input (a value that is not finite); what `into` then
    // holds is unspecified.
    virtual Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const = 0;

    // Pages whose parts lie side by side in the source: all first parts, from this page's to that of the page before
    // `end`, then all second ones. Read in that order, the source is read in long pieces.
    struct Row {
        PageId end;
        uint32_t parts;
    };
    virtual Row row(PageId page) const { return {page + 1, 1}; }
    // One part of read(), in any order; threads may read different parts of a page at once. All of them make the page.
    virtual Result<void> readPart(PageId page, uint32_t, std::span<std::byte> into,
                                  std::vector<std::byte>& scratch) const {
        return read(page, into, scratch);
    }

    // Whether pages may change; if so write() keeps what read() then gives.
    virtual bool writable() const { return false; }
    virtual Result<void> write(PageId, std::span<const std::byte>) { return {}; }
};

}  // namespace v1
}  // namespace vkmoe
