#include <fmt/format.h>

#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {

int init(const Context& context, const InitOptions& options) {
    formats::Moe0Config config{options.model_dim, options.hidden_dim, options.experts, options.top_k};
    std::optional<uint32_t> seed;
    if (options.seed) seed = formats::toUint32(*options.seed);
    auto bytes = formats::initMoe0(config, seed, options.fp16);
    if (!bytes) return fail(bytes.error());
    auto written = writeFile(options.output, *bytes);
    if (!written) return fail(written.error());
    uint64_t parameters = formats::moe0ParameterCount(config).value();
    uint32_t used = seed.value_or(formats::kMoe0DefaultSeed);
    if (context.json)
        print({{"file", options.output},
               {"model_dim", config.model_dim},
               {"hidden_dim", config.hidden_dim},
               {"experts", config.experts},
               {"top_k", config.top_k},
               {"seed", used},
               {"format", options.fp16 ? "f16" : "f32"},
               {"parameters", parameters},
               {"bytes", bytes->size()}});
    else
        fmt::print("{}: MoE0, D {}, F {}, {} experts, top {}, {} parameters in {}, {} bytes, seed {}\n", options.output,
                   config.model_dim, config.hidden_dim, config.experts, config.top_k, parameters,
                   options.fp16 ? "f16" : "f32", bytes->size(), used);
    return kOk;
}

}  // namespace vkmoe::program
