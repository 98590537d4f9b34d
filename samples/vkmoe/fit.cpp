#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "engine/formats/layer_file.h"
#include "engine/formats/moe0_write.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/interrupts.h"
#include "samples/vkmoe/one_layer.h"
#include "samples/vkmoe/targets.h"
#include "vkmoe/layer_trainer.h"

namespace vkmoe::program {
namespace {

struct FitJob {
    formats::LayerSource layer;
    std::vector<float> inputs, targets;
    bool moe0 = false;  // what to write; else a layer file
};

Result<FitJob> readJob(const Context& context, const FitOptions& options) {
    VKMOE_CHECK(checkTarget(options.output, {options.inputs, options.targets}));
    if (!options.paging.trace.empty())
        VKMOE_CHECK(checkTarget(options.paging.trace, {options.file, options.inputs, options.targets, options.output}));
    VKMOE_TRY(layer, openOneLayer(options.file, context.compat));
    const bool moe0 = std::filesystem::path(options.output).extension() == ".moe0";
    if (auto can = formats::checkMoe0Can(layer.description); moe0 && !can) {
        Error error = can.error();
        error.detail = options.output + ": " + error.detail;
        return error;
    }
    const uint32_t width = layer.description.model_dim;
    VKMOE_TRY(inputs, readFiniteRows(options.inputs, width));
    VKMOE_TRY(targets, readFiniteRows(options.targets, width));
    if (inputs.size() != targets.size())
        return Error{ErrorCode::bad_input,
                     fmt::format("{} has {} samples, {} has {}: each input needs its target", options.inputs,
                                 inputs.size() / width, options.targets, targets.size() / width)};
    return FitJob{std::move(layer), std::move(inputs), std::move(targets), moe0};
}

Result<LayerTrainerOptions> trainerOptions(const Context& context, const FitOptions& options) {
    VKMOE_TRY(paging, options.paging.training());
    LayerTrainerOptions trainer;
    trainer.precision = context.chosenPrecision();
    trainer.adamw.learning_rate = options.learning_rate;
    trainer.adamw.beta1 = options.beta1;
    trainer.adamw.beta2 = options.beta2;
    trainer.adamw.epsilon = options.epsilon;
    trainer.adamw.weight_decay = options.weight_decay;
    trainer.aux_weight = float(options.aux_weight);
    trainer.aux_scale = options.aux_scale == "mean" ? AuxScale::mean : AuxScale::reference;
    trainer.z_weight = float(options.z_weight);
    trainer.paging = paging;
    return trainer;
}

void printEpoch(const Context& context, uint64_t epoch, const EpochResult& result,
                const std::optional<PagingReport>& paging) {
    if (context.json) {
        Json line = {{"epoch", epoch}, {"loss", result.loss}, {"aux_loss", result.aux_loss}};
        if (paging) line["pages"] = pagesJson(*paging);
        print(line);
        std::fflush(stdout);
        return;
    }
    uint64_t all = 0, largest = 0;
    for (uint64_t tokens : result.expert_tokens) all += tokens, largest = std::max(largest, tokens);
    const double mean = double(all) / double(std::max<size_t>(result.expert_tokens.size(), 1));
    fmt::print("epoch {:>4}  loss {:<12.6g} balance loss {:.4f}  largest load {:.2f} of the mean  {:.2f} s\n", epoch,
               result.loss, result.aux_loss, all == 0 ? 0 : double(largest) / mean, result.seconds);
}

Result<void> write(const FitOptions& options, const FitJob& job, const formats::LayerSource& trained) {
    if (job.moe0) return formats::writeMoe0File(options.output, trained);
    return formats::writeLayerFile(options.output, std::span(&trained, 1), false);
}

Result<void> fitOn(const Context& context, const FitOptions& options, const FitJob& job, Engine& engine) {
    VKMOE_TRY(chosen, trainerOptions(context, options));
    VKMOE_TRY(trainer, LayerTrainer::create(engine, job.layer, chosen));
    double seconds = 0;
    Interrupts interrupts;
    bool stopped = false;
    for (uint64_t epoch = 0; epoch < options.epochs && !stopped; ++epoch) {
        EpochOptions one{.batch_size = options.batch_size};
        Result<EpochResult> result = [&] {
            Progress progress(fmt::format("epoch {} of {}", epoch, options.epochs));
            one.progress = [&](uint64_t done, uint64_t all) {
                progress.show(done, all);
                return !(stopped = interrupts.asked());
            };
            return trainer.epoch(job.inputs, job.targets, one);
        }();
        if (stopped) break;  // the step is made, and what it made is written
        if (!result) return std::move(result).error();
        seconds += result->seconds;
        printEpoch(context, epoch, *result, trainer.paging());
    }
    VKMOE_TRY(trained, trainer.weights());
    VKMOE_CHECK(write(options, job, trained));
    VKMOE_CHECK(writeTrainingTrace(options.paging.trace, trainer, seconds));
    if (stopped)
        fmt::print(stderr, "vkmoe: interrupted after {} samples; {} has the weights of then\n", trainer.samplesSeen(),
                   options.output);
    if (context.json) return {};
    if (auto paging = trainer.paging()) fmt::print("{}", pagingPicture(*paging));
    fmt::print("{}: trained on {}\n", options.output, engine.device().info().name);
    return {};
}

}  // namespace

int fit(const Context& context, const FitOptions& options) {
    const auto ending = std::filesystem::path(options.output).extension();
    if (ending != ".moe0" && ending != ".safetensors") {
        fmt::print(stderr, "vkmoe: {}: must end in .moe0 or .safetensors\n", options.output);
        return kUsage;
    }
    auto job = readJob(context, options);
    if (!job) return fail(job.error());
    return context.runOnDevice([&](Engine& engine) { return fitOn(context, options, *job, engine); });
}

}  // namespace vkmoe::program
