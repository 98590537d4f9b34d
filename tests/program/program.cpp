#include "tests/program/program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "tests/build.h"

namespace test {

std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

Ended program(const std::string& arguments, const std::string& environment) {
    Folder folder;
    std::string command =
        environment + " " + kProgram + " " + arguments + " >" + (folder / "out") + " 2>" + (folder / "err");
    int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder / "out"), slurp(folder / "err")};
}

Running::Running(const std::string& arguments) {
    const std::string command =
        std::string("exec ") + kProgram + " " + arguments + " >" + (folder_ / "out") + " 2>" + (folder_ / "err");
    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
        ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
        ::_exit(127);
    }
}

Running::~Running() {
    if (child_ < 0) return;
    send(SIGKILL);
    wait();
}

std::string Running::out() const { return slurp(folder_ / "out"); }

bool Running::printed(const std::string& part, double seconds) const {
    for (int i = 0; i < int(seconds * 500); ++i) {
        if (out().find(part) != std::string::npos) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
}

void Running::send(int signal) const { ::kill(child_, signal); }

Ended Running::wait() {
    int status = 0;
    ::waitpid(std::exchange(child_, -1), &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), out(), slurp(folder_ / "err")};
}

Ended measuredProgram(const std::string& arguments, Measured& measured) {
    Folder folder;
    std::string command = kMeasured + (" " + (folder / "used")) + " " + kProgram + " " + arguments + " >" +
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
