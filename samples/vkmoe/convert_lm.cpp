#include "samples/vkmoe/convert_lm.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "engine/formats/checked.h"
#include "engine/formats/file_kind.h"
#include "engine/formats/row_delta.h"
#include "samples/vkmoe/lm_file.h"
#include "samples/vkmoe/targets.h"

namespace vkmoe::program {
namespace {

// A model whose parameters are here.
struct LoadedLm {
    LmConfig config;
    std::string codec;
    std::vector<float> parameters;
};

Result<LoadedLm> load(const std::string& path, bool compat) {
    VKMOE_TRY(model, openLm(path, compat));
    VKMOE_TRY(parameters, formats::readParameters(model.source));
    return LoadedLm{model.source.config, model.codec, std::move(parameters)};
}

Result<LoadedLm> changed(LoadedLm base, const ByteSource& file, bool compat) {
    VKMOE_TRY(delta, formats::readRowDelta(file, compat));
    const uint32_t row = formats::lmRowSize(base.config);
    if (delta.row_size != row)
        return formats::inputError(
            file.name(), fmt::format("has rows of {} numbers, and the model of --base of {}", delta.row_size, row));
    auto parameters = formats::applyRowDelta(base.parameters, delta);
    if (!parameters) return formats::inFile(file.name(), parameters.error());
    for (size_t i = 0; i < parameters->size(); ++i)
        if (!(std::abs((*parameters)[i]) < 0x1p63f))
            return formats::inputError(file.name(),
                                       fmt::format("parameter {} would not be finite or not be below 2^63 in size", i));
    base.parameters = std::move(*parameters);
    return base;
}

Result<LoadedLm> loadInput(const Context& context, const ConvertOptions& options, const std::string& format,
                           const std::optional<LoadedLm>& base) {
    VKMOE_TRY(file, openFile(options.input));
    VKMOE_TRY(kind, formats::kindOf(*file));
    if (kind == formats::FileKind::package && format == "evermind")  // its card would be lost
        return Error{ErrorCode::unsupported, fmt::format("{}: is a package already", options.input)};
    if (kind != formats::FileKind::delta) return load(options.input, context.compat);
    if (!base) return formats::inputError(options.input, "is a delta; --base must name the model that it belongs to");
    return changed(*base, *file, context.compat);
}

Result<std::vector<std::byte>> deltaBytes(const ConvertOptions& options, const LoadedLm& model,
                                          const std::optional<LoadedLm>& base) {
    if (!base)
        return formats::inputError(options.output, "is to be a delta; --base must name what the model differs from");
    if (base->config != model.config)
        return formats::inputError(options.base, fmt::format("has another shape than {}", options.input));
    VKMOE_TRY(delta, formats::computeLmDelta(model.config, base->parameters, model.parameters));
    return formats::writeRowDelta(delta);
}

Result<void> write(const ConvertOptions& options, const LoadedLm& model, const std::optional<LoadedLm>& base,
                   const std::string& format) {
    if (format == "evermind")
        return writeFileInPieces(options.output, [&](const ByteSink& put) {
            const std::string name = std::filesystem::path(options.output).stem().string();
            return packLm(name, model.config, model.parameters, model.codec, "", put);
        });
    VKMOE_TRY(bytes, format == "evd0" ? deltaBytes(options, model, base)
                                      : formats::writeEvl0(model.config, model.parameters, options.fp16));
    return writeFile(options.output, bytes);
}

}  // namespace

Result<void> convertLm(const Context& context, const ConvertOptions& options, const std::string& format) {
    VKMOE_CHECK(checkTarget(options.output, {options.input, options.base}));
    std::optional<LoadedLm> base;
    if (!options.base.empty()) {
        VKMOE_TRY(loaded, load(options.base, context.compat));
        base = std::move(loaded);
    }
    VKMOE_TRY(model, loadInput(context, options, format, base));
    VKMOE_CHECK(write(options, model, base, format));
    std::error_code unknown;
    const uint64_t bytes = std::filesystem::file_size(options.output, unknown);
    if (context.json)
        print({{"file", options.output},
               {"kind", format},
               {"parameters", parameterCount(model.config)},
               {"bytes", unknown ? Json() : Json(bytes)}});
    else
        fmt::print("{}: {}, {} parameters of {}{}\n", options.output,
                   format == "evd0"   ? fmt::format("what differs from {}", options.base)
                   : format == "evl0" ? options.fp16 ? "EVL0, float16" : "EVL0"
                                      : "a package",
                   parameterCount(model.config), options.input,
                   model.codec.empty() || format != "evermind" ? "" : fmt::format(", {}", model.codec));
    return {};
}

}  // namespace vkmoe::program
