// Files: checked reads of byte ranges, and writes that leave either the old file or the new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe {

// Bytes that can be read by range: a file, or memory. Any number of threads may read at once.
class ByteSource {
public:
    virtual ~ByteSource() = default;
    virtual const std::string& name() const = 0;  // for error sentences: the path
    // The same for the byte at `offset`, where a source joins several files.
    virtual const std::string& nameAt(uint64_t offset) const;
    virtual uint64_t size() const = 0;
    // Fills `into` from `offset`. A short read, or a file that changed since it was opened, is an error with the path
    // and offset; what `into` then holds is unspecified.
    virtual Result<void> read(uint64_t offset, std::span<std::byte> into) const = 0;
    // Tells that a range will be read soon, so that its bytes may be on their way by then. Changes no result.
    virtual void announce(uint64_t offset, uint64_t bytes) const;
    // Tells that a range is not needed any more: a system that keeps what was read need not keep it. Changes no result.
    virtual void forget(uint64_t offset, uint64_t bytes) const;
    // What a read of this range reads where the bytes are kept: another number where they are converted on the way.
    virtual uint64_t storedBytes(uint64_t offset, uint64_t bytes) const;

protected:
    // An error unless there are so many bytes at `offset`.
    Result<void> checkRange(uint64_t offset, uint64_t bytes) const;
};

// Opens a regular file for reading by pread (never mmap: a truncated map is a signal, a short pread is an error).
// Anything else (a folder, a pipe, a device) is refused, and never waited for. Every read first checks that the file's
// length and modification time are still those of now. A file that is replaced by rename stays readable as it was.
Result<std::shared_ptr<const ByteSource>> openFile(const std::string& path);

// Bytes held in memory; `name` stands for them in error sentences.
std::shared_ptr<const ByteSource> memorySource(std::string name, std::vector<std::byte> bytes);

// Reads a whole file of at most `limit` bytes.
Result<std::vector<std::byte>> readFile(const std::string& path, uint64_t limit = UINT64_MAX);

// Writes `bytes` to `path` through a temporary file in the same folder, fsync and rename: a reader, or a crash, sees
// the old file or the new one, and a failure leaves the old one and no temporary file. A new file gets the usual
// permissions (the umask's); a replaced one keeps its own, and is refused if it is write-protected. A symbolic link to
// a file is followed. "-"-like special names have no meaning. What exists but is no regular file (/dev/null, a pipe) is
// written in place; there a pipe without a reader is waited for, and one whose reader left raises SIGPIPE, as usual.
Result<void> writeFile(const std::string& path, std::span<const std::byte> bytes);

// The same, and the file that was there stays as `previous`, a name in the same folder. Nothing is missing at any
// moment: `path` is the old file or the new one, and `previous` what it was or the old file. (Where the file system has
// no hard links, `path` is away for an instant, while `previous` is the old file already.)
Result<void> writeFileKeeping(const std::string& path, const std::string& previous, std::span<const std::byte> bytes);

// The same two for bytes that come in pieces: `fill` puts them, front to back. An error it returns is returned, and
// leaves the files as they were.
using ByteSink = std::function<Result<void>(std::span<const std::byte>)>;
using ByteFill = std::function<Result<void>(const ByteSink& put)>;
Result<void> writeFileInPieces(const std::string& path, const ByteFill& fill);
Result<void> writeFileKeeping(const std::string& path, const std::string& previous, const ByteFill& fill);

// The same in two steps, for files that belong together: all can be on the disk, whole, before the first of them takes
// its place. One that is not committed leaves nothing. (What is no regular file is written at once.)
class ReadyFile {
public:
    // `previous` as in writeFileKeeping; empty: what was there is not kept.
    static Result<ReadyFile> write(const std::string& path, const std::string& previous, const ByteFill& fill);
    ReadyFile(ReadyFile&&) noexcept = default;
    ReadyFile& operator=(ReadyFile&&) = delete;

    Result<void> commit() { return commit_(); }  // once

private:
    explicit ReadyFile(std::function<Result<void>()> commit) : commit_(std::move(commit)) {}
    std::function<Result<void>()> commit_;  // holds the file
};

}  // namespace vkmoe
