// The subcommands: each takes its own options and returns the program's exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/zipf_visits.h"
#include "samples/vkmoe/context.h"
#include "samples/vkmoe/paging.h"
#include "vkmoe/lm_config.h"

namespace vkmoe::program {

int devices(const Context& context);

// Every kernel, and the file's layer if there is one, on every device (or the chosen one) against the CPU's scalar
// twins: bits.
int verify(const Context& context, bool device_given, const std::string& file);

int inspect(const Context& context, const std::string& file);

struct ConvertOptions {
    std::string input, output;
    std::string format;  // "moe0", "layer"; "evl0", "evermind", "evd0"; or empty: as the output's name ends
    std::string base;    // the model that a delta is of; empty: none
    bool fp16 = false;   // of EVL0
};
int convert(const Context& context, const ConvertOptions& options);

struct InitOptions {
    uint32_t model_dim = 64, hidden_dim = 128, experts = 8, top_k = 2;
    std::optional<double> seed;  // read as the reference engine reads it
    std::string output;
    bool fp16 = false;
    uint32_t layers = 0;         // 0: one MoE0 layer; else a stack of so many
    std::string format = "f16";  // of a stack: "f16", "bf16" or "f32"
};
int init(const Context& context, const InitOptions& options);
int initStack(const Context& context, const InitOptions& options);

struct MakeRoutesOptions {
    ZipfOptions routes;
    std::string output;
    std::string input;  // where random tokens go; empty: nowhere
    uint32_t model_dim = 0;
};
int makeRoutes(const Context& context, const MakeRoutesOptions& options);

struct ReplayOptions {
    std::string trace, html;
    std::vector<std::string> budgets = {"5", "10", "25", "50", "100"};  // percent of all pages, or bytes
};
int replay(const Context& context, const ReplayOptions& options);

struct RunOptions {
    std::string file, input, output, routes, routes_in;
    bool pool_routes = false, training = false;
    uint32_t batch = 0;  // tokens of a pass; 0: chosen
    PagingChoice paging;
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

// Makes a stack of 384 MiB of experts in `folder` for as long as it runs, and runs it with a quarter of that in memory.
int demoPage(const Context& context, const std::string& folder);

// ---- training

struct BackwardOptions {
    std::string file, input, grad_output, output;
};
int backward(const Context& context, const BackwardOptions& options);

struct FitOptions {
    std::string file, inputs, targets, output;
    uint64_t epochs = 1;
    uint32_t batch_size = 0;
    double learning_rate = 0.01, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
    double aux_weight = 0.01, z_weight = 0;
    std::string aux_scale = "reference";
    PagingChoice paging;  // of it what training() takes
};
int fit(const Context& context, const FitOptions& options);

struct TrainOptions {
    std::string text, output, report;
    bool resume = false;
    std::optional<uint64_t> steps;  // one of the three ends the run; none: one epoch
    std::optional<double> minutes, epochs;
    std::string start;  // a model to learn on from, its shape and codec; empty: a new one of `model`
    LmConfig model;
    std::optional<double> seed;                        // read as the reference engine reads it
    uint32_t context = 64, batch = 8, accumulate = 1;  // tokens of a sequence, sequences, micro-batches of a step
    double learning_rate = 0.003, weight_decay = 0.01, max_norm = 1, aux_weight = 0.01;
    double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
    uint64_t warmup = 20;
    std::optional<double> final_lr_fraction;  // default: 0.1, or 1 with --minutes
    bool loss_scaling = false, rescale_sums = false, checkpoint_activations = false;
    std::string codec;                   // "bytes" or a tokenizer.json; empty: bytes
    std::optional<uint32_t> bpe_merges;  // train a codec first
    double validation = 0.1;             // of each text: its end
    uint64_t save_every = 100, validate_every = 50;
    uint32_t max_chunk = 0;  // tokens; 0: the micro-batch whole
    PagingChoice paging;     // of it what training() takes
};
int train(const Context& context, const TrainOptions& options);

struct GenerateTextOptions {
    std::string file, prompt, codec;
    uint32_t max_tokens = 128;
    double temperature = 0;
    std::optional<double> seed;
    std::optional<uint32_t> stop;  // a token
    PagingChoice paging;
};
int generate(const Context& context, const GenerateTextOptions& options);

struct LogitsOptions {
    std::string file, output;
    std::string tokens;  // ids, with commas between them
};
int logits(const Context& context, const LogitsOptions& options);
// Whether a list is numbers of up to ten digits with commas between them.
bool isIdList(const std::string& list);

struct DemoTrainOptions {
    std::string text = "/usr/share/common-licenses/GPL-3";
    std::string output = "vkmoe-demo.evermind", report = "vkmoe-training.html";
    double minutes = 0.5;
};
int demoTrain(const Context& context, const DemoTrainOptions& options);

}  // namespace vkmoe::program
