#include <fmt/format.h>

#include <filesystem>

#include "engine/formats/check_values.h"
#include "engine/formats/layer_file.h"
#include "engine/formats/moe0_write.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/convert_lm.h"
#include "samples/vkmoe/targets.h"

namespace vkmoe::program {
namespace {

std::string formatOf(const ConvertOptions& options) {
    if (!options.format.empty()) return options.format;
    const std::string ending = std::filesystem::path(options.output).extension().string();
    if (ending == ".evl0" || ending == ".evermind" || ending == ".evd0") return ending.substr(1);
    return ending == ".moe0" ? "moe0" : ending == ".safetensors" ? "layer" : "";
}

Result<void> write(const formats::ModelSource& model, const ConvertOptions& options, const std::string& format) {
    if (format == "layer") return formats::writeLayerFile(options.output, model.layers, model.stack);
    if (!model.stack) return formats::writeMoe0File(options.output, model.layers[0]);
    return Error{ErrorCode::unsupported,
                 fmt::format("{}: is a stack of {} layers, MoE0 holds one", options.input, model.layers.size())};
}

Result<void> convertFile(const Context& context, const ConvertOptions& options, const std::string& format) {
    VKMOE_CHECK(checkTarget(options.output, {options.input}));
    VKMOE_TRY(model, formats::openModel(options.input, {.compat = context.compat}));
    for (const auto& warning : model.warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    for (const auto& layer : model.layers) VKMOE_CHECK(formats::checkValues(layer));
    VKMOE_CHECK(write(model, options, format));
    std::error_code unknown;
    const uint64_t bytes = std::filesystem::file_size(options.output, unknown);
    const char* written = format == "layer" ? "layer file" : "MoE0";
    if (context.json)
        print({{"file", options.output},
               {"kind", written},
               {"from", formats::name(model.format)},
               {"layers", model.layers.size()},
               {"bytes", unknown ? Json() : Json(bytes)}});
    else
        fmt::print("{}: {}, {} of {}\n", options.output, written,
                   model.layers.size() == 1 ? "the layer" : fmt::format("the {} layers", model.layers.size()),
                   options.input);
    return {};
}

}  // namespace

int convert(const Context& context, const ConvertOptions& options) {
    const std::string format = formatOf(options);
    if (format.empty()) {
        fmt::print(stderr,
                   "vkmoe: {}: ends in none of .moe0, .safetensors, .evl0, .evermind and .evd0, so --format must say "
                   "what to write\n",
                   options.output);
        return kUsage;
    }
    const bool layers = format == "moe0" || format == "layer";
    if ((layers && !options.base.empty()) || (format != "evl0" && options.fp16)) {
        fmt::print(stderr, "vkmoe: {}\n", options.fp16 ? "--fp16 is for EVL0" : "--base is for language models");
        return kUsage;
    }
    const auto done = layers ? convertFile(context, options, format) : convertLm(context, options, format);
    return done ? int(kOk) : fail(done.error());
}

}  // namespace vkmoe::program
