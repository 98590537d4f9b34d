// The memory that a process may use where control groups limit it.
#include "host/host_memory.h"

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>

#include "tests/formats/test_folder.h"

using namespace vkmoe;
namespace fs = std::filesystem;

namespace {

void put(const fs::path& file, const std::string& text) {
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
}

}  // namespace

TEST_CASE("a control group's memory is that of the smallest of it and those above", "[host]") {
    test::Folder folder;
    const fs::path root = folder / "cgroup";
    const std::string groups = folder / "groups";
    const auto limit = [&] { return memoryLimit(groups, root.string()); };
    CHECK(limit() == UINT64_MAX);  // no list

    put(groups, "0::/a/b");
    CHECK(limit() == UINT64_MAX);  // no files
    put(root / "a/b/memory.max", "max");
    CHECK(limit() == UINT64_MAX);
    put(root / "a/memory.max", "5000");
    CHECK(limit() == 5000);
    put(root / "a/b/memory.max", "7000");
    CHECK(limit() == 5000);
    put(root / "memory.max", "4000");  // a container's own group
    CHECK(limit() == 4000);

    put(groups, "3:cpuset:/\n2:memory:/x\n1:name=systemd:/a\n0::/");
    put(root / "memory/x/memory.limit_in_bytes", "3000");
    CHECK(limit() == 3000);
    put(root / "memory/x/memory.limit_in_bytes", "9223372036854771712");
    CHECK(limit() == 4000);
    put(groups, "memory\n::\n");
    CHECK(limit() == 4000);  // the second line is the root group's

    CHECK(hostMemory() > 0);
}
