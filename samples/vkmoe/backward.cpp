#include <fmt/format.h>

#include "engine/formats/layer_file.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/one_layer.h"
#include "samples/vkmoe/targets.h"
#include "vkmoe/layer_trainer.h"

namespace vkmoe::program {
namespace {

struct BackwardJob {
    formats::LayerSource layer;
    std::vector<float> input, grad_output;
};

Result<BackwardJob> readJob(const Context& context, const BackwardOptions& options) {
    VKMOE_TRY(layer, openOneLayer(options.file, context.compat));
    const uint32_t width = layer.description.model_dim;
    VKMOE_TRY(input, readFiniteRows(options.input, width));
    VKMOE_TRY(grad_output, readFiniteRows(options.grad_output, width));
    if (input.size() != grad_output.size())
        return Error{ErrorCode::bad_input,
                     fmt::format("{} has {} tokens, {} has {}: each token needs the gradient of its output",
                                 options.input, input.size() / width, options.grad_output, grad_output.size() / width)};
    return BackwardJob{std::move(layer), std::move(input), std::move(grad_output)};
}

Result<void> writeGradients(const std::string& path, const LayerGradientResult& result, uint32_t model_dim) {
    VKMOE_TRY(tensors, formats::tensorsToWrite(result.gradients, "", true));
    const auto bytes = std::as_bytes(std::span(result.input));
    tensors.push_back({"input", "F32", {result.input.size() / model_dim, model_dim}, [bytes](const ByteSink& put) {
                           return put(bytes);
                       }});
    return formats::writeSafetensors(path, tensors, {});
}

Result<void> backwardOn(const Context& context, const BackwardOptions& options, const BackwardJob& job,
                        Engine& engine) {
    VKMOE_TRY(trainer, LayerTrainer::create(engine, job.layer, {.precision = context.chosenPrecision()}));
    VKMOE_TRY(result, trainer.backward(job.input, job.grad_output));
    VKMOE_CHECK(writeGradients(options.output, result, job.layer.description.model_dim));
    const uint64_t tokens = result.input.size() / job.layer.description.model_dim;
    if (context.json)
        print({{"device", engine.device().info().name},
               {"precision", context.precision},
               {"tokens", tokens},
               {"file", options.output}});
    else
        fmt::print("{}: the gradients of {} tokens, on {}\n", options.output, tokens, engine.device().info().name);
    return {};
}

}  // namespace

int backward(const Context& context, const BackwardOptions& options) {
    if (auto target = checkTarget(options.output, {options.file, options.input, options.grad_output}); !target)
        return fail(target.error());
    auto job = readJob(context, options);
    if (!job) return fail(job.error());
    return context.runOnDevice([&](Engine& engine) { return backwardOn(context, options, *job, engine); });
}

}  // namespace vkmoe::program
