// Files that a command writes, looked at before it works for an hour.
#pragma once

#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe::program {

// The file that a link leads to; any other path as it is.
std::string followed(const std::string& path);

// Errors: io for a path that no file can be written at: an empty one, a folder, one whose folder is missing or may not
// be written to; bad_input where the file is one of `others`, which the command reads or else writes, links followed: a
// folder or an index stands for the files of a model in it, an empty path for no file.
Result<void> checkTarget(const std::string& path, const std::vector<std::string>& others = {});
// The same for each of `paths` that is not empty; none may be another of them.
Result<void> checkEachTarget(const std::vector<std::string>& paths, std::vector<std::string> others);

}  // namespace vkmoe::program
