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

// The program in the background, to be sent signals.
class Running {
public:
    explicit Running(const std::string& arguments);
    ~Running();  // kills it
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    std::string out() const;                                           // what it printed so far
    bool printed(const std::string& part, double seconds = 60) const;  // waits for it
    void send(int signal) const;
    Ended wait();  // code: minus the signal that ended it, if one did

private:
    Folder folder_;
    int child_ = -1;
};

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
