#include <fmt/format.h>

#include <filesystem>

#include "engine/formats/layer_file.h"
#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {
namespace {

bool isLayerFile(const std::string& path) { return std::filesystem::path(path).extension() == ".safetensors"; }

Result<void> write(const std::string& path, const std::vector<std::byte>& moe0) {
    if (!isLayerFile(path)) return writeFile(path, moe0);
    VKMOE_TRY(layer, formats::readMoe0(memorySource(path, moe0)));
    return formats::writeLayerFile(path, {&layer, 1}, false);
}

}  // namespace

int init(const Context& context, const InitOptions& options) {
    formats::Moe0Config config{options.model_dim, options.hidden_dim, options.experts, options.top_k};
    std::optional<uint32_t> seed;
    if (options.seed) seed = formats::toUint32(*options.seed);
    auto parameters = formats::moe0ParameterCount(config);
    if (!parameters) return fail(parameters.error());
    if (auto usable = validate(formats::describe(config)); !usable) return fail(usable.error());
    auto bytes = formats::initMoe0(config, seed, options.fp16);
    if (!bytes) return fail(bytes.error());
    if (auto written = write(options.output, *bytes); !written) return fail(written.error());
    std::error_code unknown;
    const uint64_t size = std::filesystem::file_size(options.output, unknown);
    uint32_t used = seed.value_or(formats::kMoe0DefaultSeed);
    if (context.json)
        print({{"file", options.output},
               {"model_dim", config.model_dim},
               {"hidden_dim", config.hidden_dim},
               {"experts", config.experts},
               {"top_k", config.top_k},
               {"seed", used},
               {"format", options.fp16 ? "f16" : "f32"},
               {"parameters", *parameters},
               {"bytes", unknown ? Json() : Json(size)}});
    else
        fmt::print("{}: {}, D {}, F {}, {} experts, top {}, {} parameters in {}{}, seed {}\n", options.output,
                   isLayerFile(options.output) ? "layer file" : "MoE0", config.model_dim, config.hidden_dim,
                   config.experts, config.top_k, *parameters, options.fp16 ? "f16" : "f32",
                   unknown ? "" : fmt::format(", {} bytes", size), used);
    return kOk;
}

}  // namespace vkmoe::program
