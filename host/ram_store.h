// RamStore: pages in ordinary memory, all of one size, that start at zero. A page of zeros takes none.
#pragma once

#include "host/page_store.h"

namespace vkmoe {
inline namespace v1 {

// Whether every byte is 0.
bool allZero(std::span<const std::byte> bytes);

class RamStore final : public PageStore {
public:
    RamStore(uint32_t pages, uint64_t page_bytes) : page_bytes_(page_bytes), kept_(pages) {}

    uint32_t pages() const override { return uint32_t(kept_.size()); }
    uint64_t pageBytes(PageId) const override { return page_bytes_; }
    uint64_t sourceBytes(PageId page) const override { return kept_[page].size(); }
    Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const override;
    bool writable() const override { return true; }
    // Errors: out_of_memory; the page is then as it was.
    Result<void> write(PageId page, std::span<const std::byte> from) override;

private:
    uint64_t page_bytes_;
    std::vector<std::vector<std::byte>> kept_;  // empty: zeros
};

}  // namespace v1
}  // namespace vkmoe
