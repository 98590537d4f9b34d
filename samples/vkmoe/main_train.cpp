#include "samples/vkmoe/main_train.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/option_checks.h"
#include "samples/vkmoe/paging_options.h"

namespace vkmoe::program {
namespace {

// Lives as long as the callbacks.
struct Options {
    BackwardOptions backward;
    FitOptions fit;
    TrainOptions train;
    GenerateTextOptions generate;
    LogitsOptions logits;
    DemoTrainOptions demo;
};
using Shared = std::shared_ptr<Options>;

constexpr uint32_t kMost32 = UINT32_MAX;
const CLI::Range kCount(1u, kMost32, "1 to 4294967295");

CLI::Option* addFile(CLI::App& command, std::string& file, const char* what) {
    return command.add_option("file", file, what)->required();
}

CLI::Option* addOutput(CLI::App& command, std::string& path, const char* what) {
    return command.add_option("-o,--output", path, what)->required();
}

void addCompat(CLI::App& command, Context& context) {
    command.add_flag("--compat", context.compat, "accept what the reference engine accepts, with a warning");
}

void addBackward(CLI::App& command, BackwardOptions& options) {
    addFile(command, options.file, "a file with one layer");
    command.add_option("--input", options.input, "tokens: little-endian f32, [tokens, D]")->required();
    command.add_option("--grad-output", options.grad_output, "the gradient of the outputs, in the same form")
        ->required();
    addOutput(command, options.output, "the safetensors file to write: names of a layer file, and input [tokens, D]");
}

void addFit(CLI::App& command, FitOptions& options) {
    addFile(command, options.file, "a file with one layer");
    command.add_option("--inputs", options.inputs, "samples: little-endian f32, [samples, D]")->required();
    command.add_option("--targets", options.targets, "the outputs wanted, in the same form")->required();
    addOutput(command, options.output, "the trained layer: NAME.moe0 or NAME.safetensors");
    command.add_option("--epochs", options.epochs, "times that all samples are seen")
        ->check(kCount)
        ->capture_default_str();
    command.add_option("--batch-size", options.batch_size, "samples of a step; 0: all")->capture_default_str();
    command.add_option("--lr", options.learning_rate, "learning rate")->capture_default_str();
    command.add_option("--beta1", options.beta1, "of AdamW")->capture_default_str();
    command.add_option("--beta2", options.beta2, "of AdamW")->capture_default_str();
    command.add_option("--eps", options.epsilon, "of AdamW")->capture_default_str();
    command.add_option("--weight-decay", options.weight_decay, "of AdamW")->capture_default_str();
    command.add_option("--aux-weight", options.aux_weight, "of the balance loss")->capture_default_str();
    command
        .add_option("--aux-scale", options.aux_scale, "reference: its gradient divided twice by the batch; mean: once")
        ->check(CLI::IsMember({"reference", "mean"}))
        ->capture_default_str();
    command.add_option("--z-weight", options.z_weight, "of the router's z-loss")->capture_default_str();
    addTrainingPaging(command, options.paging);
}

// `start`: the option that says all of this with a file.
void addModel(CLI::App& command, TrainOptions& options, CLI::Option* start) {
    LmConfig& model = options.model;
    auto add = [&](const char* name, uint32_t& value, const char* what) {
        return command.add_option(name, value, what)->check(kCount)->excludes(start);
    };
    add("--model-dim", model.model_dim, "D, width of a token")->capture_default_str();
    add("--layers", model.layers, "layers")->capture_default_str();
    command.add_option("--conv-kernel", model.conv_kernel, "positions a convolution looks at; 0: none")
        ->check(CLI::Range(0u, kMost32, "0 to 4294967295"))
        ->excludes(start)
        ->capture_default_str();
    add("--hidden-dim", model.hidden_dim, "width of an expert's hidden layer; default: 2*D");
    add("--experts", model.experts, "routed experts of a layer")->capture_default_str();
    add("--top-k", model.top_k, "experts a token goes to")->capture_default_str();
    command.add_option("--seed", options.seed, "default: the reference engine's")->check(CLI::Number);
}

void addLearning(CLI::App& command, TrainOptions& options) {
    command.add_option("--context", options.context, "tokens of a sequence")
        ->check(CLI::Range(2u, kMost32))
        ->capture_default_str();
    command.add_option("--batch", options.batch, "sequences of a micro-batch")->check(kCount)->capture_default_str();
    command.add_option("--accumulate", options.accumulate, "micro-batches of a step")
        ->check(kCount)
        ->capture_default_str();
    command.add_option("--lr", options.learning_rate, "learning rate")->capture_default_str();
    command.add_option("--warmup", options.warmup, "steps until the whole rate")
        ->check(CLI::Range(0u, kMost32))
        ->capture_default_str();
    command.add_option("--final-lr-fraction", options.final_lr_fraction,
                       "of the rate, reached by half a cosine at the last step; default: 0.1, or 1 with --minutes");
    command.add_option("--beta1", options.beta1, "of AdamW")->capture_default_str();
    command.add_option("--beta2", options.beta2, "of AdamW")->capture_default_str();
    command.add_option("--eps", options.epsilon, "of AdamW")->capture_default_str();
    command.add_option("--weight-decay", options.weight_decay, "of AdamW")->capture_default_str();
    command.add_option("--max-norm", options.max_norm, "of a step's gradient; 0: any")->capture_default_str();
    command.add_option("--aux-weight", options.aux_weight, "of the balance loss")->capture_default_str();
    auto* scaling = command.add_flag("--loss-scaling", options.loss_scaling, "gradients pass through float16, scaled");
    command
        .add_flag("--rescale-sums", options.rescale_sums,
                  "as the reference engine: after each micro-batch the sum so far is scaled, not once the whole")
        ->needs(scaling);
    command.add_flag("--checkpoint-activations", options.checkpoint_activations,
                     "compute activations again instead of keeping them; same bits");
    command
        .add_option("--max-chunk", options.max_chunk,
                    "tokens of a micro-batch that are in the experts and the head at once; 0: all; same bits")
        ->check(CLI::Range(0u, kMost32))
        ->capture_default_str();
}

void addTrain(CLI::App& command, TrainOptions& options) {
    command.add_option("--text", options.text, "a UTF-8 file, or a folder of them")->required();
    addOutput(command, options.output, "the .evermind package to write; OUTPUT.state beside it lets --resume go on");
    command.add_flag("--resume", options.resume, "go on where OUTPUT stopped, with the same options");
    auto* steps = command.add_option("--steps", options.steps, "steps in all")->check(kCount);
    auto* minutes = command.add_option("--minutes", options.minutes, "minutes from now")->check(kAboveZero);
    auto* epochs = command.add_option("--epochs", options.epochs, "times as many tokens as the text has; default: 1")
                       ->check(kAboveZero);
    steps->excludes(minutes)->excludes(epochs);
    minutes->excludes(epochs);
    auto* start = command.add_option("--start", options.start,
                                     "a model to learn on from: its weights, its shape, its codec; default: a new one");
    start->check(kPath);
    addModel(command, options, start);
    addLearning(command, options);
    auto* codec = command.add_option("--codec", options.codec, "bytes or a tokenizer.json; default: bytes");
    command.add_option("--bpe-merges", options.bpe_merges, "learn a byte-pair encoding from the text first")
        ->excludes(codec)
        ->excludes(start);
    command.add_option("--validation", options.validation, "fraction of each text, its end, that is not learned from")
        ->capture_default_str();
    command.add_option("--validate-every", options.validate_every, "steps")->check(kCount)->capture_default_str();
    command.add_option("--save-every", options.save_every, "steps")->check(kCount)->capture_default_str();
    addTrainingPaging(command, options.paging);
    command.add_option("--report", options.report, "an HTML file with the loss curves and the experts' load")
        ->check(kPath);
}

void addGenerate(CLI::App& command, GenerateTextOptions& options) {
    addFile(command, options.file, "an .evermind package or an EVL0 file");
    command.add_option("--prompt", options.prompt, "the text to go on from; may be empty")->required();
    command.add_option("--max-tokens", options.max_tokens, "new tokens")->check(kCount)->capture_default_str();
    command.add_option("--temperature", options.temperature, "0: always the most likely token")->capture_default_str();
    command.add_option("--seed", options.seed, "default: 1")->check(CLI::Number);
    command.add_option("--stop", options.stop, "the id of a token that ends the text, and is part of it");
    command.add_option("--codec", options.codec, "bytes or a tokenizer.json; default: what the model was trained with");
    addPaging(command, options.paging);
}

void addLogits(CLI::App& command, LogitsOptions& options) {
    addFile(command, options.file, "an .evermind package or an EVL0 file");
    command.add_option("--tokens", options.tokens, "ids, with commas between them")
        ->check(CLI::Validator(
            [](const std::string& list) { return isIdList(list) ? "" : "must be ids with commas between them"; }, ""))
        ->required();
    command.add_option("--output", options.output, "little-endian f32, [tokens, vocabulary]")->required();
}

void addDemo(CLI::App& command, DemoTrainOptions& options) {
    command.add_option("--text", options.text, "a UTF-8 file, or a folder of them")->capture_default_str();
    command.add_option("-o,--output", options.output, "the package to write")->capture_default_str();
    command.add_option("--report", options.report, "the HTML report to write")->check(kPath)->capture_default_str();
    command.add_option("--minutes", options.minutes, "how long to train")->check(kAboveZero)->capture_default_str();
}

}  // namespace

void addTraining(CLI::App& app, Context& context, int& exit_code,
                 const std::function<void(CLI::App&, Context&)>& add_shared) {
    auto options = std::make_shared<Options>();
    const auto add = [&](const char* name, const char* what, auto run) -> CLI::App& {
        auto* command = app.add_subcommand(name, what);
        add_shared(*command, context);
        command->callback([&context, &exit_code, options, run] { exit_code = run(context, *options); });
        return *command;
    };
    using C = const Context&;
    CLI::App& backward_command = add("backward", "gradients of FILE's layer, of its parameters and its input",
                                     [](C c, Options& o) { return backward(c, o.backward); });
    CLI::App& fit_command =
        add("fit", "train FILE's layer towards given outputs", [](C c, Options& o) { return fit(c, o.fit); });
    CLI::App& train_command = add("train", "train a small language model on text", [](C c, Options& o) {
        Context told = c;
        told.json = c.json || isatty(STDOUT_FILENO) == 0;  // live progress on a terminal, lines of JSON otherwise
        return train(told, o.train);
    });
    CLI::App& generate_command = add("generate", "let a language model go on from a text",
                                     [](C c, Options& o) { return generate(c, o.generate); });
    CLI::App& logits_command =
        add("logits", "a language model's logits of given tokens", [](C c, Options& o) { return logits(c, o.logits); });
    CLI::App& demo_command = add("demo-train", "half a minute of training on this machine, and what came of it",
                                 [](C c, Options& o) { return demoTrain(c, o.demo); });
    for (auto* command : {&backward_command, &fit_command, &generate_command, &logits_command})
        addCompat(*command, context);
    addBackward(backward_command, options->backward);
    addFit(fit_command, options->fit);
    addTrain(train_command, options->train);
    addGenerate(generate_command, options->generate);
    addLogits(logits_command, options->logits);
    addDemo(demo_command, options->demo);
}

}  // namespace vkmoe::program
