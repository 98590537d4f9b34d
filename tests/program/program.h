// Runs the vkmoe program as its users do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/formats/test_folder.h"

namespace test {

struct Ended {
    int code;
    std::string out, err;
};

Ended program(const std::string& arguments, const std::string& environment = "");

struct Measured {
    double seconds = 0;  // of CPU time
    uint64_t largest_kib = 0;
};
Ended measuredProgram(const std::string& arguments, Measured& measured);

// One sentence: "vkmoe: ..." and a newline, nothing else.
void checkSentence(const Ended& ended, const std::string& part);

std::string slurp(const std::string& path);
void writeFloats(const std::string& path, const std::vector<float>& values);
std::vector<float> readFloats(const std::string& path);

}  // namespace test
