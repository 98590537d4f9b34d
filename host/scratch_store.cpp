#include "host/scratch_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "host/ram_store.h"

namespace vkmoe {
inline namespace v1 {
namespace {

std::string reason(int number) { return std::generic_category().message(number); }

// A file that has no name, or none any more; -1 with errno.
int openNameless(const std::string& folder) {
#ifdef O_TMPFILE
    int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return file;
#endif
    std::string path = folder + "/vkmoe-scratch-XXXXXX";
    int named = ::mkostemp(path.data(), O_CLOEXEC);
    if (named >= 0) ::unlink(path.c_str());
    return named;
}

// Calls `transfer` until all bytes have moved. The error number; -1: the file ended.
template <class Byte, class Transfer>
int moveAll(std::span<Byte> bytes, uint64_t offset, Transfer transfer) {
    while (!bytes.empty()) {
        ssize_t some = transfer(bytes.data(), bytes.size(), off_t(offset));
        if (some < 0 && errno == EINTR) continue;
        if (some < 0) return errno;
        if (some == 0) return -1;
        bytes = bytes.subspan(size_t(some));
        offset += uint64_t(some);
    }
    return 0;
}

}  // namespace

Result<std::unique_ptr<ScratchStore>> ScratchStore::create(const std::string& folder, uint32_t pages,
                                                           uint64_t page_bytes) {
    if (page_bytes != 0 && pages > uint64_t{INT64_MAX} / page_bytes)
        return Error{ErrorCode::bad_input,
                     fmt::format("{} pages of {} bytes are more than a file has", pages, page_bytes)};
    int file = openNameless(folder);
    if (file < 0)
        return Error{ErrorCode::io,
                     fmt::format("{}: no scratch file for pages can be made there: {}", folder, reason(errno))};
    return std::unique_ptr<ScratchStore>(new ScratchStore(file, "the scratch file in " + folder, pages, page_bytes));
}

ScratchStore::~ScratchStore() { ::close(file_); }

Error ScratchStore::error(PageId page, const char* what, int number) const {
    return {ErrorCode::io,
            fmt::format("{}: page {}, {} bytes at {}, {}: {}", name_, page, page_bytes_, page * page_bytes_, what,
                        number < 0 ? "the file is too short" : reason(number))};
}

Result<void> ScratchStore::read(PageId page, std::span<std::byte> into, std::vector<std::byte>&) const {
    assert(page < pages() && into.size() == page_bytes_);
    if (kept_[page] == zeros) {
        std::fill(into.begin(), into.end(), std::byte{0});
        return {};
    }
    if (kept_[page] == torn) return error(page, "was never written whole", EIO);
    int failed = moveAll(into, page * page_bytes_,
                         [&](std::byte* to, size_t size, off_t at) { return ::pread(file_, to, size, at); });
    if (failed != 0) return error(page, "cannot be read", failed);
    return {};
}

Result<void> ScratchStore::write(PageId page, std::span<const std::byte> from) {
    assert(page < pages() && from.size() == page_bytes_);
    if (allZero(from)) {
        kept_[page] = zeros;
        return {};
    }
    int failed = moveAll(from, page * page_bytes_,
                         [&](const std::byte* at, size_t size, off_t to) { return ::pwrite(file_, at, size, to); });
    kept_[page] = failed == 0 ? whole : torn;
    if (failed != 0) return error(page, "cannot be written", failed);
    return {};
}

}  // namespace v1
}  // namespace vkmoe
