// Context: what every subcommand shares: where to run, how to print, how to fail.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "vkmoe/engine.h"
#include "vkmoe/layer.h"

namespace vkmoe::program {

using Json = nlohmann::ordered_json;

// Exit codes of the program.
enum Exit { kOk = 0, kCheckFailed = 1, kUsage = 2, kBadInput = 3, kNoDevice = 4 };

struct Context {
    std::string device = "auto";
    std::string precision = "exact";
    bool json = false;
    bool compat = false;

    Precision chosenPrecision() const { return precision == "rounded" ? Precision::rounded : Precision::exact; }
    EngineOptions engineOptions(const std::string& choice) const;
    // Opens the chosen device; why GPUs were passed over goes to stderr.
    Result<std::unique_ptr<Engine>> openEngine() const;
    // Does the job on the chosen device. With --device auto, a GPU that is refused on the way gives its place to the
    // CPU.
    int runOnDevice(const std::function<Result<void>(Engine&)>& job) const;
};

// Prints "vkmoe: sentence" to stderr and gives the exit code that goes with the error.
int fail(const Error& error);

// With the name of a file in front of the sentence.
int fail(const std::string& file, const Error& error);

// Writes one JSON object and a newline to stdout.
void print(const Json& json);

// A line of progress on stderr, overwritten in place, only where stderr is a terminal. Vanishes at the end.
class Progress {
public:
    explicit Progress(std::string what);
    ~Progress();
    void show(uint64_t done, uint64_t all);

private:
    std::string what_;
    bool terminal_;
    int shown_ = -1;
};

// "1.5 MiB", "3.2 GiB"
std::string readableBytes(double bytes);

}  // namespace vkmoe::program
