#include "host/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace vkmoe;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;
namespace fs = std::filesystem;

namespace {

// An empty folder, removed at the end of the test.
class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "vkmoe-file-test-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    std::string operator/(const std::string& name) const { return (path_ / name).string(); }
    size_t entries() const {
        return static_cast<size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
    }

private:
    fs::path path_;
};

std::vector<std::byte> toBytes(const std::string& text) {
    std::vector<std::byte> bytes(text.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
}

void put(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    REQUIRE(fs::file_size(path) == text.size());
}

std::string get(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

std::string openError(const std::string& path) {
    const auto file = openFile(path);
    return file ? "no error" : file.error().detail;
}

std::string writeError(const std::string& path, const std::string& text = "new") {
    const Result<void> written = writeFile(path, toBytes(text));
    return written ? "no error" : written.error().detail;
}

std::string readError(const ByteSource& source, uint64_t offset, size_t bytes) {
    std::vector<std::byte> into(bytes);
    const Result<void> done = source.read(offset, into);
    return done ? "no error" : done.error().detail;
}

std::shared_ptr<const ByteSource> mustOpen(const std::string& path) {
    auto file = openFile(path);
    REQUIRE(file);
    return *file;
}

mode_t permissions(const std::string& path) {
    struct stat status = {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 07777;
}

// Limits the size of files that this process writes, as a full disk would, until the end of the scope.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) : old_handler_(::signal(SIGXFSZ, SIG_IGN)) {
        REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_) == 0);
        const rlimit limit = {bytes, old_.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    }
    ~FileSizeLimit() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        ::signal(SIGXFSZ, old_handler_);
    }

private:
    rlimit old_ = {};
    sighandler_t old_handler_;
};

}  // namespace

TEST_CASE("a file is read by range", "[file]") {
    const Folder folder;
    put(folder / "x", "0123456789");
    for (const auto& source : {mustOpen(folder / "x"), memorySource(folder / "x", toBytes("0123456789"))}) {
        CHECK(source->name() == folder / "x");
        CHECK(source->size() == 10);
        std::vector<std::byte> into(4);
        REQUIRE(source->read(3, into));
        CHECK(into == toBytes("3456"));
        CHECK(readError(*source, 10, 0) == "no error");
        CHECK(readError(*source, 0, 10) == "no error");
        CHECK(readError(*source, 7, 4) ==
              (folder / "x") + ": 4 bytes at offset 7 were asked for, but its length is 10");
        CHECK_THAT(readError(*source, 11, 0), ContainsSubstring("0 bytes at offset 11"));
        CHECK_THAT(readError(*source, UINT64_MAX, 2), ContainsSubstring("2 bytes at offset 18446744073709551615"));
    }
}

TEST_CASE("only regular files are opened, and nothing is waited for", "[file]") {
    const Folder folder;
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    CHECK(openError(folder / "none") == (folder / "none") + ": cannot be opened: No such file or directory");
    CHECK(openError(folder / "pipe") == (folder / "pipe") + ": is a pipe; only regular files are read");
    CHECK_THAT(openError(folder / ""), EndsWith(": is a folder; only regular files are read"));
    CHECK(openError("/dev/zero") == "/dev/zero: is a device; only regular files are read");
    CHECK(openError("") == "the path of a file is empty");
    CHECK(openError(std::string("a\0b", 3)) == "a: the path goes on after a zero byte");
    put(folder / "x", "text");
    CHECK_THAT(openError((folder / "x") + "/y"), EndsWith("/x/y: cannot be opened: Not a directory"));
    fs::create_symlink("loop", folder / "loop");
    CHECK_THAT(openError(folder / "loop"), ContainsSubstring("/loop: cannot be opened: "));
    if (::geteuid() == 0) return;  // root may read everything
    fs::permissions(folder / "x", fs::perms::none);
    CHECK_THAT(openError(folder / "x"), EndsWith("/x: cannot be opened: Permission denied"));
}

TEST_CASE("a file that changes while it is open is not read on", "[file]") {
    const Folder folder;
    const std::string path = folder / "x";
    put(path, "0123456789");
    const auto file = mustOpen(path);
    SECTION("truncated") {
        fs::resize_file(path, 5);
        CHECK(readError(*file, 0, 2) == path + ": changed while it was in use: its length was 10 and is 5");
    }
    SECTION("grown") {
        std::ofstream(path, std::ios::app) << "more";
        CHECK(readError(*file, 0, 2) == path + ": changed while it was in use: its length was 10 and is 14");
    }
    SECTION("overwritten") {
        std::ofstream(path, std::ios::in) << "abc";
        fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
        CHECK(readError(*file, 0, 2) == path + ": changed while it was in use");
    }
    SECTION("replaced or removed: the open one stays as it was") {
        REQUIRE(writeFile(path, toBytes("abcdefghij")));
        std::vector<std::byte> into(10);
        REQUIRE(file->read(0, into));
        CHECK(into == toBytes("0123456789"));
        fs::remove(path);
        CHECK(readError(*file, 0, 10) == "no error");
    }
}

TEST_CASE("a whole file is read up to a limit", "[file]") {
    const Folder folder;
    put(folder / "x", "0123456789");
    put(folder / "empty", "");
    const auto whole = readFile(folder / "x", 10);
    REQUIRE(whole);
    CHECK(whole.value() == toBytes("0123456789"));
    const auto limited = readFile(folder / "x", 9);
    REQUIRE(!limited);
    CHECK(limited.error().detail == (folder / "x") + ": length is 10 bytes; at most 9 are read");
    const auto empty = readFile(folder / "empty");
    REQUIRE(empty);
    CHECK(empty.value().empty());
    CHECK_FALSE(readFile(folder / "none"));
}

TEST_CASE("a written file has the bytes and the usual permissions", "[file]") {
    const Folder folder;
    const mode_t old_umask = ::umask(0027);
    REQUIRE(writeFile(folder / "new", toBytes("one")));
    ::umask(old_umask);
    CHECK(get(folder / "new") == "one");
    CHECK(permissions(folder / "new") == 0640);
    REQUIRE(writeFile(folder / "new", {}));
    CHECK(get(folder / "new").empty());
    CHECK(folder.entries() == 1);
    REQUIRE(writeFile(folder / std::string(255, 'n'), toBytes("a long name")));
    CHECK(folder.entries() == 2);
}

TEST_CASE("a file written in pieces is there once all are", "[file]") {
    const Folder folder;
    put(folder / "f", "old");
    const auto fill = [&](bool fails) {
        return [&, fails](const ByteSink& sink) -> Result<void> {
            VKMOE_CHECK(sink(toBytes("one, ")));
            CHECK(get(folder / "f") == "old");
            if (fails) return Error{ErrorCode::bad_input, "no more"};
            return sink(toBytes("two"));
        };
    };
    const auto failed = writeFileInPieces(folder / "f", fill(true));
    REQUIRE(!failed);
    CHECK(failed.error().detail == "no more");
    CHECK(get(folder / "f") == "old");
    REQUIRE(writeFileInPieces(folder / "f", fill(false)));
    CHECK(get(folder / "f") == "one, two");
    CHECK(folder.entries() == 1);
}

TEST_CASE("a file that is being written has no name, so that nothing stays of a process that is killed", "[file]") {
    Folder folder;
    const int file = ::open((folder / ".").c_str(), O_WRONLY | O_TMPFILE, 0600);
    if (file < 0 || ::access("/proc/self/fd", X_OK) != 0) SKIP("files without names are not to be had here");
    ::close(file);
    put(folder / "f", "old");
    auto written = writeFileInPieces(folder / "f", [&](const ByteSink& out) -> Result<void> {
        auto put_some = out(toBytes("new"));
        CHECK(folder.entries() == 1);
        CHECK(get(folder / "f") == "old");
        return put_some;
    });
    REQUIRE(written);
    CHECK(get(folder / "f") == "new");
    CHECK(folder.entries() == 1);
}

TEST_CASE("a file may be kept under another name when it is replaced", "[file]") {
    const Folder folder;
    REQUIRE(writeFileKeeping(folder / "f", "before", toBytes("one")));  // nothing to keep
    CHECK(folder.entries() == 1);
    put(folder / "before.new", "of a process that ended");
    for (const char* text : {"two", "three"}) {
        const std::string old = get(folder / "f");
        REQUIRE(writeFileKeeping(folder / "f", "before", toBytes(text)));
        CHECK(get(folder / "f") == text);
        CHECK(get(folder / "before") == old);
        CHECK(folder.entries() == 2);
    }
    {
        const FileSizeLimit limit(4);
        CHECK(!writeFileKeeping(folder / "f", "before", toBytes("longer")));
    }
    CHECK(get(folder / "f") == "three");
    CHECK(get(folder / "before") == "two");
    fs::remove(folder / "before");
    fs::create_hard_link(folder / "f", folder / "before");  // both one file, as after a crash
    REQUIRE(writeFileKeeping(folder / "f", "before", toBytes("four")));
    CHECK(get(folder / "before") == "three");
    CHECK(folder.entries() == 2);
}

TEST_CASE("files that are ready change nothing until they are committed", "[file]") {
    const Folder folder;
    put(folder / "a", "old a");
    put(folder / "b", "old b");
    const auto filledWith = [](const std::string& text) {
        return [text](const ByteSink& put) { return put(toBytes(text)); };
    };
    {
        auto a = ReadyFile::write(folder / "a", "before", filledWith("new a"));
        auto b = ReadyFile::write(folder / "b", "", filledWith("new b"));
        auto fresh = ReadyFile::write(folder / "c", "none", filledWith("c"));
        REQUIRE((a && b && fresh));
        CHECK(get(folder / "a") == "old a");
        CHECK(get(folder / "b") == "old b");
        CHECK(!fs::exists(folder / "c"));
        REQUIRE(a->commit());
        REQUIRE(fresh->commit());
        CHECK(get(folder / "b") == "old b");
    }
    CHECK(get(folder / "a") == "new a");
    CHECK(get(folder / "before") == "old a");
    CHECK(get(folder / "b") == "old b");  // never committed
    CHECK(get(folder / "c") == "c");
    CHECK(folder.entries() == 4);
    {
        const FileSizeLimit limit(4);
        CHECK(!ReadyFile::write(folder / "b", "", filledWith("longer")));
    }
    CHECK(folder.entries() == 4);
    auto device = ReadyFile::write("/dev/null", "", filledWith("written at once"));
    REQUIRE(device);
    CHECK(device->commit());
}

TEST_CASE("a replaced file keeps its permissions, and a link to it stays a link", "[file]") {
    const Folder folder;
    put(folder / "private", "old");
    REQUIRE(::chmod((folder / "private").c_str(), 0606) == 0);
    fs::create_symlink("private", folder / "link");
    REQUIRE(writeFile(folder / "link", toBytes("new")));
    CHECK(get(folder / "private") == "new");
    CHECK(permissions(folder / "private") == 0606);
    CHECK(fs::is_symlink(folder / "link"));
    CHECK(folder.entries() == 2);
}

TEST_CASE("a path without a folder is one in the current folder", "[file]") {
    const Folder folder;
    const fs::path old = fs::current_path();
    fs::current_path(folder / "");
    const Result<void> written = writeFile("x", toBytes("here"));
    fs::current_path(old);
    REQUIRE(written);
    CHECK(get(folder / "x") == "here");
}

TEST_CASE("what cannot be written says why", "[file]") {
    const Folder folder;
    CHECK(writeError("") == "the path of a file is empty");
    CHECK_THAT(writeError(folder / ""), EndsWith(": is a folder; it cannot be written"));
    CHECK_THAT(writeError(folder / "none/"), EndsWith("none/: names a folder that does not exist"));
    CHECK(writeError(folder / "none/x") ==
          (folder / "none/x") + ": its folder cannot be opened: No such file or directory");
    CHECK_THAT(writeError(folder / std::string(256, 'n')), EndsWith(": cannot be written: File name too long"));
    put(folder / "x", "old");
    CHECK_THAT(writeError(folder / "x/y"), EndsWith("/x/y: cannot be written: Not a directory"));
    CHECK(folder.entries() == 1);
    if (::geteuid() == 0) return;  // root may write everything
    fs::permissions(folder / "x", fs::perms::owner_read);
    CHECK_THAT(writeError(folder / "x"), EndsWith("/x: cannot be written: Permission denied"));
    fs::permissions(folder / "", fs::perms::owner_read | fs::perms::owner_exec);
    CHECK_THAT(writeError(folder / "y"), EndsWith("/y: no temporary file can be created beside it: Permission denied"));
    fs::permissions(folder / "", fs::perms::owner_all);
    CHECK(get(folder / "x") == "old");
}

TEST_CASE("a write that fails half-way leaves the old file and nothing else", "[file]") {
    const Folder folder;
    put(folder / "x", "old");
    std::string replace, create;
    {
        const FileSizeLimit limit(4096);
        replace = writeError(folder / "x", std::string(10000, 'n'));
        create = writeError(folder / "y", std::string(10000, 'n'));
    }
    CHECK(replace == (folder / "x") + ": 5904 bytes cannot be written: File too large");
    CHECK(create == (folder / "y") + ": 5904 bytes cannot be written: File too large");
    CHECK(get(folder / "x") == "old");
    CHECK(folder.entries() == 1);
}

TEST_CASE("devices are written in place", "[file]") {
    CHECK(writeError("/dev/null") == "no error");
    CHECK(fs::is_character_file("/dev/null"));
    CHECK(writeError("/dev/full") == "/dev/full: 3 bytes cannot be written: No space left on device");
}

TEST_CASE("a pipe takes everything, though signals interrupt", "[file]") {
    const Folder folder;
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    struct sigaction action = {}, old_action = {};
    action.sa_handler = [](int) {};  // without SA_RESTART: a system call that waits returns EINTR
    REQUIRE(::sigaction(SIGALRM, &action, &old_action) == 0);

    std::string text(1 << 20, '\0'), received;
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    ::pthread_sigmask(SIG_BLOCK, &alarm, nullptr);  // in the reader, which inherits it
    std::thread reader([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        received = get(folder / "pipe");
    });
    ::pthread_sigmask(SIG_UNBLOCK, &alarm, nullptr);
    const itimerval often = {{0, 500}, {0, 500}}, never = {};
    ::setitimer(ITIMER_REAL, &often, nullptr);
    const std::string error = writeError(folder / "pipe", text);
    ::setitimer(ITIMER_REAL, &never, nullptr);
    reader.join();
    ::sigaction(SIGALRM, &old_action, nullptr);
    CHECK(error == "no error");
    CHECK(received == text);
}

TEST_CASE("readers see one whole file or the other, and writers do not disturb each other", "[file]") {
    const Folder folder;
    const std::string path = folder / "x";
    const std::string texts[] = {std::string(20000, 'a'), std::string(30000, 'b')};
    put(path, texts[0]);
    std::atomic<int> failures = 0, writing = 2;
    std::vector<std::thread> writers;
    for (const std::string& text : texts)
        writers.emplace_back([&] {
            for (int i = 0; i < 50; ++i) failures += writeError(path, text) != "no error";
            --writing;
        });
    int reads = 0, torn = 0;
    for (; writing > 0 || reads == 0; ++reads) {
        const auto bytes = readFile(path);
        torn += !bytes || (bytes.value() != toBytes(texts[0]) && bytes.value() != toBytes(texts[1]));
    }
    for (std::thread& writer : writers) writer.join();
    CHECK(failures == 0);
    CHECK(torn == 0);
    CHECK(folder.entries() == 1);
}
