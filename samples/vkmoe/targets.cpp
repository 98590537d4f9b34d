#include "samples/vkmoe/targets.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace vkmoe::program {
namespace {

namespace fs = std::filesystem;

bool areOne(const fs::path& a, const fs::path& b) {
    std::error_code failure;
    if (fs::equivalent(a, b, failure)) return true;
    const fs::path one = fs::weakly_canonical(fs::absolute(a, failure), failure);
    return one == fs::weakly_canonical(fs::absolute(b, failure), failure) && !failure;
}

// Whether `path`, be it there or not yet, is what `other` stands for: that file, or one that a model's or a codec's
// folder, or an index, is read from.
bool isPartOf(const fs::path& path, const fs::path& other) {
    if (areOne(path, other)) return true;
    std::error_code failure;
    const bool folder = fs::is_directory(other, failure), index = other.string().ends_with(".index.json");
    if ((!folder && !index) || !fs::exists(path, failure)) return false;
    const fs::path of_shards = folder ? other : fs::absolute(other, failure).parent_path();
    return areOne(fs::absolute(path, failure).parent_path(), of_shards) &&
           (path.extension() == ".safetensors" ||
            (folder && (path.extension() == ".json" || path.extension() == ".txt")));
}

}  // namespace

std::string followed(const std::string& path) {
    std::error_code failure;
    const bool link = fs::is_symlink(path, failure);
    const fs::path target = fs::canonical(path, failure);
    return link && !failure ? target.string() : path;
}

namespace {

// Whether a file can be written there at all.
Result<void> checkPlace(const std::string& path) {
    std::error_code error;
    if (path.empty()) return Error{ErrorCode::io, "the path of the file to write is empty"};
    if (fs::is_directory(path, error)) return Error{ErrorCode::io, fmt::format("{}: is a folder", path)};
    fs::path folder = fs::path(followed(path)).parent_path();
    if (folder.empty()) folder = ".";
    if (!fs::is_directory(folder, error))
        return Error{ErrorCode::io, fmt::format("{}: {} is no folder", path, folder.string())};
    if (fs::exists(path, error) && !fs::is_regular_file(path, error)) return {};  // a device or a pipe
    if (::access(folder.c_str(), W_OK) != 0)
        return Error{ErrorCode::io, fmt::format("{}: nothing can be written in {}: {}", path, folder.string(),
                                                std::generic_category().message(errno))};
    const long most = ::pathconf(folder.c_str(), _PC_NAME_MAX);
    const size_t length = fs::path(path).filename().string().size();
    if (most > 0 && length > size_t(most))
        return Error{ErrorCode::io,
                     fmt::format("{}: its name has {} bytes, at most {} can be written", path, length, most)};
    return {};
}

}  // namespace

Result<void> checkTarget(const std::string& path, const std::vector<std::string>& others) {
    VKMOE_CHECK(checkPlace(path));
    for (const std::string& other : others)
        if (!other.empty() && isPartOf(path, other))
            return Error{ErrorCode::bad_input,
                         fmt::format("{}: what is to be written there and {} cannot be the same file", path, other)};
    return {};
}

Result<void> checkEachTarget(const std::vector<std::string>& paths, std::vector<std::string> others) {
    for (const std::string& path : paths) {
        if (path.empty()) continue;
        VKMOE_CHECK(checkTarget(path, others));
        others.push_back(path);
    }
    return {};
}

}  // namespace vkmoe::program
