#include "samples/vkmoe/targets.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace vkmoe::program {
namespace {

namespace fs = std::filesystem;

// Whether two paths are one file, be it there or not yet.
bool areOne(const std::string& a, const std::string& b) {
    std::error_code failure;
    if (fs::equivalent(a, b, failure)) return true;
    const fs::path one = fs::weakly_canonical(a, failure), other = fs::weakly_canonical(b, failure);
    return !failure && one == other;
}

}  // namespace

Result<void> checkTarget(const std::string& path) {
    std::error_code error;
    if (path.empty()) return Error{ErrorCode::io, "the path of the file to write is empty"};
    if (fs::is_directory(path, error)) return Error{ErrorCode::io, fmt::format("{}: is a folder", path)};
    fs::path folder = fs::path(path).parent_path();
    if (folder.empty()) folder = ".";
    if (!fs::is_directory(folder, error))
        return Error{ErrorCode::io, fmt::format("{}: {} is no folder", path, folder.string())};
    if (fs::exists(path, error) && !fs::is_regular_file(path, error)) return {};  // a device or a pipe
    if (::access(folder.c_str(), W_OK) != 0)
        return Error{ErrorCode::io, fmt::format("{}: nothing can be written in {}: {}", path, folder.string(),
                                                std::generic_category().message(errno))};
    return {};
}

Result<void> checkTarget(const std::string& path, const std::vector<std::string>& others) {
    VKMOE_CHECK(checkTarget(path));
    for (const std::string& other : others)
        if (!other.empty() && areOne(path, other))
            return Error{ErrorCode::bad_input,
                         fmt::format("{}: what is to be written there and {} cannot be the same file", path, other)};
    return {};
}

}  // namespace vkmoe::program
