// The subcommands: each takes its own options and returns the program's exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "samples/vkmoe/context.h"

namespace vkmoe::program {

int devices(const Context& context);

// Every kernel, and the file's layer if there is one, on every device (or the chosen one) against the CPU's scalar
// twins: bits.
int verify(const Context& context, bool device_given, const std::string& file);

int inspect(const Context& context, const std::string& file);

struct ConvertOptions {
    std::string input, output;
    std::string format;  // "moe0", "layer", or empty: as the output's name ends
};
int convert(const Context& context, const ConvertOptions& options);

struct InitOptions {
    uint32_t model_dim = 64, hidden_dim = 128, experts = 8, top_k = 2;
    std::optional<double> seed;  // read as the reference engine reads it
    std::string output;
    bool fp16 = false;
};
int init(const Context& context, const InitOptions& options);

struct RunOptions {
    std::string file, input, output, routes, routes_in;
    bool pool_routes = false, training = false;
};
int run(const Context& context, const RunOptions& options);

struct BenchOptions {
    std::string filter, html;
    uint32_t tokens = 256, experts = 8, top_k = 2, model_dim = 512, hidden_dim = 512;
};
int bench(const Context& context, const BenchOptions& options);

struct DemoOptions {
    std::string report = "vkmoe-report.html";
    uint32_t tokens = 4096;
};
int demo(const Context& context, const DemoOptions& options);

}  // namespace vkmoe::program
