#include "tests/program/program.h"

#include <sys/wait.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace test {

std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

Ended program(const std::string& arguments, const std::string& environment) {
    Folder folder;
    std::string command =
        environment + " " VKMOE_PROGRAM " " + arguments + " >" + (folder / "out") + " 2>" + (folder / "err");
    int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder / "out"), slurp(folder / "err")};
}

Ended measuredProgram(const std::string& arguments, Measured& measured) {
    Folder folder;
    std::string command = VKMOE_MEASURED " " + (folder / "used") + " " VKMOE_PROGRAM " " + arguments + " >" +
                          (folder / "out") + " 2>" + (folder / "err");
    int status = std::system(command.c_str());
    std::ifstream(folder / "used") >> measured.seconds >> measured.largest_kib;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder / "out"), slurp(folder / "err")};
}

void writeFloats(const std::string& path, const std::vector<float>& values) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * 4));
}

std::vector<float> readFloats(const std::string& path) {
    std::string bytes = slurp(path);
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), values.size() * 4);
    return values;
}

void checkSentence(const Ended& ended, const std::string& part) {
    INFO(ended.err);
    CHECK(ended.err.starts_with("vkmoe: "));
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(ended.err.find(part) != std::string::npos);
}

}  // namespace test
