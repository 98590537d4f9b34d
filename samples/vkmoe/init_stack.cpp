#include <fmt/format.h>

#include <filesystem>

#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/random_stack.h"

namespace vkmoe::program {
namespace {

RandomStack stackOf(const InitOptions& options) {
    RandomStack stack{.layers = options.layers};
    Description& d = stack.description;
    d.model_dim = options.model_dim;
    d.hidden_dim = options.hidden_dim;
    d.experts = options.experts;
    d.top_k = options.top_k;
    d.renormalize = true;
    d.activation = Activation::silu_glu;
    stack.format = options.format == "f32"    ? WeightFormat::f32
                   : options.format == "bf16" ? WeightFormat::bf16
                                              : WeightFormat::f16;
    stack.seed = options.seed ? formats::toUint32(*options.seed) : formats::kMoe0DefaultSeed;
    return stack;
}

}  // namespace

int initStack(const Context& context, const InitOptions& options) {
    if (!options.output.ends_with(".safetensors"))
        return fail({ErrorCode::bad_input, options.output + ": a stack of layers is a .safetensors file"});
    RandomStack stack = stackOf(options);
    auto parameters = parameterCount(stack);
    if (!parameters) return fail(options.output, parameters.error());
    {
        Progress progress("writing");
        auto written =
            writeRandomStack(options.output, stack, [&](uint64_t done) { progress.show(done, *parameters); });
        if (!written) return fail(written.error());
    }
    std::error_code error;
    uint64_t bytes = std::filesystem::file_size(options.output, error);
    const Description& d = stack.description;
    if (context.json)
        print({{"file", options.output},
               {"layers", stack.layers},
               {"model_dim", d.model_dim},
               {"hidden_dim", d.hidden_dim},
               {"experts", d.experts},
               {"top_k", d.top_k},
               {"seed", stack.seed},
               {"format", name(stack.format)},
               {"parameters", *parameters},
               {"bytes", error ? 0 : bytes}});
    else
        fmt::print("{}: {} layers, D {}, F {}, {} experts, top {}, {} parameters in {}, {} bytes, seed {}\n",
                   options.output, stack.layers, d.model_dim, d.hidden_dim, d.experts, d.top_k, *parameters,
                   name(stack.format), error ? 0 : bytes, stack.seed);
    return kOk;
}

}  // namespace vkmoe::program
