#include <fmt/format.h>

#include "samples/vkmoe/commands.h"

namespace vkmoe::program {
namespace {

// A model small enough to learn something in half a minute on two CPU cores.
TrainOptions demoRun(const DemoTrainOptions& options) {
    TrainOptions run;
    run.text = options.text;
    run.output = options.output;
    run.report = options.report;
    run.minutes = options.minutes;
    run.model.model_dim = 64;
    run.model.layers = 2;
    run.model.conv_kernel = 8;
    run.model.hidden_dim = 128;
    run.model.experts = 4;
    run.learning_rate = 0.005;
    run.context = 128;
    run.batch = 4;
    return run;
}

}  // namespace

int demoTrain(const Context& context, const DemoTrainOptions& options) {
    if (!context.json)
        fmt::print("1. A language model learns the bytes of {} for {:g} minutes\n\n", options.text, options.minutes);
    if (const int code = train(context, demoRun(options)); code != kOk) return code;
    GenerateTextOptions sample;
    sample.file = options.output;
    sample.prompt = "The ";
    sample.max_tokens = 400;
    sample.temperature = 0.5;
    if (!context.json) fmt::print("\n2. What it writes after \"{}\"\n\n{}", sample.prompt, sample.prompt);
    if (const int code = generate(context, sample); code != kOk) return code;
    if (!context.json)
        fmt::print("\n3. The curves: {}\n   More of it: vkmoe generate {} --prompt \"You may \" --temperature 0.5\n",
                   options.report, options.output);
    return kOk;
}

}  // namespace vkmoe::program
