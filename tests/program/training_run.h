// Runs of `vkmoe train` that tests start, tiny and on the CPU, and what they print.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/program/program.h"

namespace test {

void writeText(const std::string& path, const std::string& text);
std::string poem();  // 420 bytes

extern const char* const kTinyShape;

// A run over folder/text. Its rate does not depend on where it ends.
std::string trainCommand(const Folder& folder, const std::string& output, const std::string& more,
                         const std::string& shape = kTinyShape);

// What was printed, line by line; the last step of it.
std::vector<nlohmann::json> jsonLines(const std::string& out);
uint64_t lastStep(const std::string& out);

// Exit 3, nothing on stdout, one sentence.
void checkRefused(const std::string& arguments, const std::string& sentence);

}  // namespace test
