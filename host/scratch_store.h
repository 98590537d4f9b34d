// ScratchStore: pages in a temporary file without a name, all of one size, that start at zero. The file goes with the
// store, or with the process; a page of zeros is never written.
//
//     auto store = ScratchStore::create("/tmp", 4096, 1 << 20);
#pragma once

#include <memory>
#include <string>

#include "host/page_store.h"

namespace vkmoe {
inline namespace v1 {

class ScratchStore final : public PageStore {
public:
    // Errors: io, which names the folder (it is missing, or nothing can be written there); bad_input for more bytes
    // than a file has.
    static Result<std::unique_ptr<ScratchStore>> create(const std::string& folder, uint32_t pages, uint64_t page_bytes);
    ~ScratchStore() override;
    ScratchStore(const ScratchStore&) = delete;

    uint32_t pages() const override { return uint32_t(kept_.size()); }
    uint64_t pageBytes(PageId) const override { return page_bytes_; }
    uint64_t sourceBytes(PageId page) const override { return kept_[page] ? page_bytes_ : 0; }
    Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const override;
    bool writable() const override { return true; }
    // Errors: io, such as a full disk; reading the page is then an error, too.
    Result<void> write(PageId page, std::span<const std::byte> from) override;

private:
    enum Kept : uint8_t { zeros, whole, torn };
    ScratchStore(int file, std::string name, uint32_t pages, uint64_t page_bytes)
        : file_(file), name_(std::move(name)), page_bytes_(page_bytes), kept_(pages, zeros) {}
    Error error(PageId page, const char* what, int number) const;

    int file_;
    std::string name_;  // for errors
    uint64_t page_bytes_;
    std::vector<uint8_t> kept_;  // [pages] Kept; bytes, for threads that look at neighbours
};

}  // namespace v1
}  // namespace vkmoe
