#include "host/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <new>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace vkmoe {
namespace {

// The sentence for a system call that just failed: "x.moe0: cannot be opened: No such file or directory".
Error systemError(const std::string& path, const std::string& what, int number = errno) {
    return {ErrorCode::io, fmt::format("{}: {}: {}", path, what, std::generic_category().message(number))};
}

Error inputError(const std::string& path, const std::string& what) {
    return {ErrorCode::bad_input, fmt::format("{}: {}", path, what)};
}

// Repeats a system call for as long as signals interrupt it.
template <class Call>
auto uninterrupted(Call call) {
    auto result = call();
    while (result < 0 && errno == EINTR) result = call();
    return result;
}

// An open file, closed at the end of its scope.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor() { close(); }

    bool isOpen() const { return number_ >= 0; }
    int number() const { return number_; }
    // False if an earlier write failed and the system says so only now. Never repeated: the number is already free.
    bool close() { return number_ < 0 || ::close(std::exchange(number_, -1)) == 0; }

private:
    int number_;
};

Descriptor open(const char* path, int flags) {
    return Descriptor(uninterrupted([&] { return ::open(path, flags | O_CLOEXEC | O_NOCTTY); }));
}

Result<void> checkPath(const std::string& path) {
    if (path.empty()) return Error{ErrorCode::bad_input, "the path of a file is empty"};
    if (path.find('\0') != std::string::npos) return inputError(path.c_str(), "the path goes on after a zero byte");
    return {};
}

const char* kindName(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    return "no regular file";
}

// --------------------------------------------------------------------------------------------------------- reading

class File : public ByteSource {
public:
    File(std::string path, Descriptor descriptor, const struct stat& status)
        : path_(std::move(path)), descriptor_(std::move(descriptor)), opened_(status) {}

    const std::string& name() const override { return path_; }
    uint64_t size() const override { return static_cast<uint64_t>(opened_.st_size); }

    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        VKMOE_CHECK(checkRange(offset, into.size()));
        VKMOE_CHECK(checkUnchanged());
        while (!into.empty()) {
            const ssize_t got = uninterrupted(
                [&] { return ::pread(descriptor_.number(), into.data(), into.size(), static_cast<off_t>(offset)); });
            if (got < 0)
                return systemError(path_, fmt::format("{} bytes at offset {} cannot be read", into.size(), offset));
            if (got == 0) return inputError(path_, fmt::format("ends at offset {}; its length was {}", offset, size()));
            into = into.subspan(static_cast<size_t>(got));
            offset += static_cast<uint64_t>(got);
        }
        return checkUnchanged();
    }

    void announce(uint64_t offset, uint64_t bytes) const override {
        if (bytes == 0 || isCached(offset + bytes / 2)) return;  // its ends may have come with its neighbours
        ::posix_fadvise(descriptor_.number(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                        POSIX_FADV_WILLNEED);
    }

    void forget(uint64_t offset, uint64_t bytes) const override {
        if (bytes == 0) return;                                            // to the system it means: to the end
        const auto unit = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));  // part of one is not dropped
        const uint64_t from = offset / unit * unit, to = (offset + bytes + unit - 1) / unit * unit;
        ::posix_fadvise(descriptor_.number(), static_cast<off_t>(from), static_cast<off_t>(to - from),
                        POSIX_FADV_DONTNEED);
    }

private:
    // Whether the byte at `offset` is in memory; false where the system cannot tell, too.
    bool isCached(uint64_t offset) const {
#ifdef RWF_NOWAIT
        std::byte byte;
        const iovec into{&byte, 1};
        return ::preadv2(descriptor_.number(), &into, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
#else
        return static_cast<void>(offset), false;
#endif
    }

    Result<void> checkUnchanged() const {
        struct stat now = {};
        if (::fstat(descriptor_.number(), &now) != 0) return systemError(path_, "cannot be examined");
        if (now.st_size != opened_.st_size)
            return inputError(path_, fmt::format("changed while it was in use: its length was {} and is {}",
                                                 opened_.st_size, now.st_size));
        if (now.st_ino != opened_.st_ino || now.st_mtim.tv_sec != opened_.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != opened_.st_mtim.tv_nsec)
            return inputError(path_, "changed while it was in use");
        return {};
    }

    std::string path_;
    Descriptor descriptor_;
    struct stat opened_;
};

class Bytes : public ByteSource {
public:
    Bytes(std::string name, std::vector<std::byte> bytes) : name_(std::move(name)), bytes_(std::move(bytes)) {}

    const std::string& name() const override { return name_; }
    uint64_t size() const override { return bytes_.size(); }

    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        VKMOE_CHECK(checkRange(offset, into.size()));
        std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), into.size(), into.begin());
        return {};
    }

private:
    std::string name_;
    std::vector<std::byte> bytes_;
};

// --------------------------------------------------------------------------------------------------------- writing

Result<void> writeAll(int file, std::span<const std::byte> bytes, const std::string& path) {
    while (!bytes.empty()) {
        const ssize_t written = uninterrupted([&] { return ::write(file, bytes.data(), bytes.size()); });
        if (written <= 0)
            return systemError(path, fmt::format("{} bytes cannot be written", bytes.size()),
                               written < 0 ? errno : EIO);
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
}

// fsync, where there is something to flush: pipes and some folders have no such operation.
bool flush(int file) {
    return uninterrupted([&] { return ::fsync(file); }) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS;
}

Result<void> fillFile(int file, const ByteFill& fill, const std::string& path) {
    return fill([&](std::span<const std::byte> bytes) { return writeAll(file, bytes, path); });
}

Result<void> writeInPlace(const std::string& path, const ByteFill& fill) {
    Descriptor file = open(path.c_str(), O_WRONLY);
    if (!file.isOpen()) return systemError(path, "cannot be written");
    VKMOE_CHECK(fillFile(file.number(), fill, path));
    if (!flush(file.number()) || !file.close()) return systemError(path, "cannot be written");
    return {};
}

// The first random name for which make(name) is true, or none: then errno says why.
template <class Make>
std::optional<std::string> temporaryName(const Make& make) {
    for (int attempt = 0; attempt < 100; ++attempt) {
        uint64_t random = 0;
        if (uninterrupted([&] { return ::getrandom(&random, sizeof random, 0); }) < 0) break;
        std::string name = fmt::format(".vkmoe-{:016x}.tmp", random);
        if (make(name)) return name;
        if (errno != EEXIST) break;
    }
    return std::nullopt;
}

// A new file, removed at the end of its scope unless it has become `renameTo`'s file. It has no name until it is full,
// where the system can do that (Linux with /proc, most file systems): of a process that is killed hardly anything
// stays.
class TemporaryFile {
public:
    static Result<TemporaryFile> create(int folder, mode_t mode, const std::string& path) {
        auto open = [&](const char* name, int flags) {
            return uninterrupted([&] { return ::openat(folder, name, O_WRONLY | O_CLOEXEC | flags, mode); });
        };
#ifdef O_TMPFILE
        if (::access("/proc/self/fd", X_OK) == 0)
            if (Descriptor file(open(".", O_TMPFILE));
                file.isOpen() && canName(folder, Descriptor(open(".", O_TMPFILE))))
                return TemporaryFile(folder, {}, std::move(file));
#endif
        int file = -1;
        auto name = temporaryName(
            [&](const std::string& tried) { return (file = open(tried.c_str(), O_CREAT | O_EXCL)) >= 0; });
        if (!name) return systemError(path, "no temporary file can be created beside it");
        return TemporaryFile(folder, std::move(*name), Descriptor(file));
    }
    TemporaryFile(TemporaryFile&& other) noexcept
        : folder_(other.folder_), name_(std::exchange(other.name_, {})), file_(std::move(other.file_)) {}
    TemporaryFile& operator=(TemporaryFile&&) = delete;
    ~TemporaryFile() {
        if (!name_.empty()) ::unlinkat(folder_, name_.c_str(), 0);
    }

    Descriptor& file() { return file_; }
    // Before the file is closed: gives it a name, if it has none.
    bool name() {
        if (!name_.empty()) return true;
        auto name = nameOf(folder_, file_);
        if (name) name_ = std::move(*name);
        return name.has_value();
    }
    bool renameTo(const std::string& name) {
        if (::renameat(folder_, name_.c_str(), folder_, name.c_str()) != 0) return false;
        name_.clear();
        return true;
    }

private:
    static std::optional<std::string> nameOf(int folder, const Descriptor& file) {
        const std::string number = fmt::format("/proc/self/fd/{}", file.number());
        return temporaryName([&](const std::string& tried) {
            return ::linkat(AT_FDCWD, number.c_str(), folder, tried.c_str(), AT_SYMLINK_FOLLOW) == 0;
        });
    }
    // Whether files may be linked here: tried with one that is gone at once.
    static bool canName(int folder, const Descriptor& file) {
        auto name = file.isOpen() ? nameOf(folder, file) : std::nullopt;
        if (name) ::unlinkat(folder, name->c_str(), 0);
        return name.has_value();
    }

    TemporaryFile(int folder, std::string name, Descriptor file)
        : folder_(folder), name_(std::move(name)), file_(std::move(file)) {}

    int folder_;
    std::string name_;
    Descriptor file_;
};

// Makes `previous` the file that `name` is, by a link that then takes the place of what `previous` was.
bool keepAs(int folder, const std::string& name, const std::string& previous) {
    const std::string link = previous + ".new";
    ::unlinkat(folder, link.c_str(), 0);  // of a process that ended here
    if (::linkat(folder, name.c_str(), folder, link.c_str(), 0) != 0)
        return ::renameat(folder, name.c_str(), folder, previous.c_str()) == 0;
    const bool renamed = ::renameat(folder, link.c_str(), folder, previous.c_str()) == 0;
    ::unlinkat(folder, link.c_str(), 0);  // still there if both were one file
    return renamed;
}

// A file that is on the disk, whole, to take the place of another.
struct Replacement {
    std::string path;
    Descriptor folder;
    TemporaryFile temporary;
    std::string name, previous;  // in the folder; empty: nothing is kept

    // The file gets its name only now: a process that is killed before leaves none.
    Result<void> commit() {
        if (!temporary.name() || !temporary.file().close()) return systemError(path, "cannot be written");
        if (!previous.empty() && !keepAs(folder.number(), name, previous))
            return systemError(path, fmt::format("cannot be kept as {}", previous));
        if (!temporary.renameTo(name)) return systemError(path, "cannot be replaced");
        if (!flush(folder.number())) return systemError(path, "was written, but its folder cannot be flushed");
        return {};
    }
};

}  // namespace

const std::string& ByteSource::nameAt(uint64_t) const { return name(); }

void ByteSource::announce(uint64_t, uint64_t) const {}

void ByteSource::forget(uint64_t, uint64_t) const {}

uint64_t ByteSource::storedBytes(uint64_t, uint64_t bytes) const { return bytes; }

Result<void> ByteSource::checkRange(uint64_t offset, uint64_t bytes) const {
    uint64_t end = 0;
    if (!__builtin_add_overflow(offset, bytes, &end) && end <= size()) return {};
    return inputError(name(),
                      fmt::format("{} bytes at offset {} were asked for, but its length is {}", bytes, offset, size()));
}

Result<std::shared_ptr<const ByteSource>> openFile(const std::string& path) {
    VKMOE_CHECK(checkPath(path));
    Descriptor file = open(path.c_str(), O_RDONLY | O_NONBLOCK);  // non-blocking: a pipe without a writer would wait
    if (!file.isOpen()) return systemError(path, "cannot be opened");
    struct stat status = {};
    if (::fstat(file.number(), &status) != 0) return systemError(path, "cannot be examined");
    if (!S_ISREG(status.st_mode))
        return inputError(path, fmt::format("is {}; only regular files are read", kindName(status.st_mode)));
    return std::shared_ptr<const ByteSource>(std::make_shared<File>(path, std::move(file), status));
}

std::shared_ptr<const ByteSource> memorySource(std::string name, std::vector<std::byte> bytes) {
    return std::make_shared<Bytes>(std::move(name), std::move(bytes));
}

Result<std::vector<std::byte>> readFile(const std::string& path, uint64_t limit) try {
    VKMOE_TRY(file, openFile(path));
    if (file->size() > limit)
        return inputError(path, fmt::format("length is {} bytes; at most {} are read", file->size(), limit));
    std::vector<std::byte> bytes(file->size());
    VKMOE_CHECK(file->read(0, bytes));
    return bytes;
} catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, fmt::format("{}: no memory to read the whole file", path)};
} catch (const std::length_error&) {
    return Error{ErrorCode::out_of_memory, fmt::format("{}: no memory to read the whole file", path)};
}

// The temporary file is created with no more permissions than it shall end with, so that nobody can open it early.
Result<ReadyFile> ReadyFile::write(const std::string& path, const std::string& previous, const ByteFill& fill) {
    assert(previous.find('/') == std::string::npos);
    VKMOE_CHECK(checkPath(path));
    struct stat old = {};
    const bool exists = ::stat(path.c_str(), &old) == 0;
    if (!exists && errno != ENOENT) return systemError(path, "cannot be written");
    if (exists && S_ISDIR(old.st_mode)) return inputError(path, "is a folder; it cannot be written");
    if (exists && ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) != 0)
        return systemError(path, "cannot be written");
    if (exists && !S_ISREG(old.st_mode)) {
        VKMOE_CHECK(writeInPlace(path, fill));
        return ReadyFile([] { return Result<void>(); });
    }
    std::error_code failure;
    const std::filesystem::path target =
        exists ? std::filesystem::canonical(path, failure) : std::filesystem::path(path);
    if (failure) return systemError(path, "its links cannot be followed", failure.value());
    if (target.filename().empty()) return inputError(path, "names a folder that does not exist");
    const std::string folder_name = target.has_parent_path() ? target.parent_path().string() : ".";
    Descriptor folder = open(folder_name.c_str(), O_RDONLY | O_DIRECTORY);
    if (!folder.isOpen()) return systemError(path, "its folder cannot be opened");

    const mode_t mode = exists ? old.st_mode & 0777 : 0666;
    VKMOE_TRY(temporary, TemporaryFile::create(folder.number(), mode, path));
    VKMOE_CHECK(fillFile(temporary.file().number(), fill, path));
    if (exists && ::fchmod(temporary.file().number(), mode) != 0)
        return systemError(path, "its permissions cannot be kept");
    if (uninterrupted([&] { return ::fsync(temporary.file().number()); }) != 0)
        return systemError(path, "cannot be written");
    auto replacement = std::make_shared<Replacement>(Replacement{
        path, std::move(folder), std::move(temporary), target.filename().string(), exists ? previous : std::string()});
    return ReadyFile([replacement] { return replacement->commit(); });
}

Result<void> writeFile(const std::string& path, std::span<const std::byte> bytes) {
    return writeFileInPieces(path, [&](const ByteSink& put) { return put(bytes); });
}

Result<void> writeFileInPieces(const std::string& path, const ByteFill& fill) {
    return writeFileKeeping(path, {}, fill);
}

Result<void> writeFileKeeping(const std::string& path, const std::string& previous, std::span<const std::byte> bytes) {
    return writeFileKeeping(path, previous, [&](const ByteSink& put) { return put(bytes); });
}

Result<void> writeFileKeeping(const std::string& path, const std::string& previous, const ByteFill& fill) {
    VKMOE_TRY(ready, ReadyFile::write(path, previous, fill));
    return ready.commit();
}

}  // namespace vkmoe
