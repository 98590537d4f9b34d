#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/check_values.h"
#include "engine/formats/checked.h"
#include "engine/formats/evl0.h"
#include "engine/formats/file_kind.h"
#include "engine/formats/package.h"
#include "engine/formats/row_delta.h"
#include "samples/vkmoe/inspect.h"

namespace vkmoe::program {
namespace {

using formats::LmSource;
using formats::Package;
using Source = std::shared_ptr<const ByteSource>;

int show(const Context& context, const std::vector<std::string>& warnings, Json json, const std::string& text) {
    for (const auto& warning : warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    if (context.json) {
        json["warnings"] = warnings;
        print(json);
    } else {
        fmt::print("{}", text);
    }
    return kOk;
}

// --------------------------------------------------------------------------------------------------- language models

Json lmJson(const LmSource& model) {
    const LmConfig& c = model.config;
    Json tensors = Json::array();
    for (const formats::TensorRange& tensor : model.tensors)
        tensors.push_back({{"name", tensor.name},
                           {"format", name(tensor.format)},
                           {"shape", tensor.shape},
                           {"offset", tensor.offset},
                           {"bytes", tensor.bytes}});
    return {{"parameters", parameterCount(c)},
            {"format", name(model.format)},
            {"config",
             {{"vocab_size", c.vocab_size},
              {"model_dim", c.model_dim},
              {"layers", c.layers},
              {"conv_kernel", c.conv_kernel},
              {"hidden_dim", c.hidden_dim},
              {"experts", c.experts},
              {"top_k", c.top_k}}},
            {"tensors", std::move(tensors)}};
}

std::string lmText(const LmSource& model) {
    const LmConfig& c = model.config;
    std::string text = fmt::format(
        "  {} tokens in the vocabulary, {} layers of {} values, convolutions over {}, {} parameters as {}\n"
        "  {} experts of {} hidden values and a shared one, top {}\n\n  {:<36} {:<5} {:<16} {:>12} {:>12}\n",
        c.vocab_size, c.layers, c.model_dim, c.conv_kernel, parameterCount(c), name(model.format), c.experts,
        c.hidden_dim, c.top_k, "tensor", "type", "shape", "offset", "bytes");
    for (const formats::TensorRange& tensor : model.tensors)
        text += fmt::format("  {:<36} {:<5} {:<16} {:>12} {:>12}\n", tensor.name, name(tensor.format),
                            fmt::format("[{}]", fmt::join(tensor.shape, ", ")), tensor.offset, tensor.bytes);
    return text;
}

int inspectLm(const Context& context, const Source& file) {
    const auto model = formats::readEvl0(file, {.compat = context.compat});
    if (!model) return fail(model.error());
    const LmSource& lm = model.value();
    if (const auto values = formats::checkValues(*lm.bytes, lm.tensors); !values) return fail(values.error());
    Json json = {{"file", file->name()}, {"kind", "EVL0"}, {"bytes", file->size()}};
    json.update(lmJson(lm));
    return show(context, lm.warnings, std::move(json),
                fmt::format("{}: EVL0, a language model, {}\n{}", file->name(), readableBytes(double(file->size())),
                            lmText(lm)));
}

// ------------------------------------------------------------------------------------------------------------ deltas

int inspectDelta(const Context& context, const Source& file) {
    const auto delta = formats::readRowDelta(*file, context.compat);
    if (!delta) return fail(delta.error());
    const auto& rows = delta.value().rows;
    Json json = {{"file", file->name()},
                 {"kind", "EVD0"},
                 {"bytes", file->size()},
                 {"row_size", delta.value().row_size},
                 {"rows", rows.size()}};
    std::string text =
        fmt::format("{}: EVD0, {} changed rows of {} numbers", file->name(), rows.size(), delta.value().row_size);
    if (!rows.empty()) {
        json["first_row"] = *std::min_element(rows.begin(), rows.end());
        json["last_row"] = *std::max_element(rows.begin(), rows.end());
        text += fmt::format(", the first {}, the last {}", json["first_row"].get<uint32_t>(),
                            json["last_row"].get<uint32_t>());
    }
    return show(context, {}, std::move(json), text + "\n");
}

// ---------------------------------------------------------------------------------------------------------- packages

constexpr const char* kTold[] = {"name",
                                 "version",
                                 "modelType",
                                 "modality",
                                 "createdAt",
                                 "card.author",
                                 "card.license",
                                 "card.trainingSummary",
                                 "card.description"};

Json packageJson(const Package& package, const char* checkpoint) {
    Json json = {{"file", package.file->name()}, {"kind", "package"}, {"bytes", package.file->size()}};
    Json& told = json["manifest"] = Json::object();
    for (const char* key : kTold)
        if (package.manifest.find(key)) told[key] = package.manifest.string(key);
    json["checkpoint"] = {
        {"kind", checkpoint}, {"offset", package.checkpoint_offset}, {"bytes", package.checkpoint_bytes}};
    if (package.codec_bytes > 0) json["codec"] = {{"offset", package.codec_offset}, {"bytes", package.codec_bytes}};
    return json;
}

std::string packageText(const Package& package, const char* checkpoint) {
    std::string text = fmt::format("{}: a package with a {} checkpoint, {}\n", package.file->name(), checkpoint,
                                   readableBytes(double(package.file->size())));
    for (const char* key : kTold)
        if (package.manifest.find(key))
            text += fmt::format("  {}: {}\n", key, formats::shown(package.manifest.string(key)));
    if (package.codec_bytes > 0) text += fmt::format("  a codec of {}\n", readableBytes(double(package.codec_bytes)));
    return text;
}

int inspectPackagedLm(const Context& context, const Package& package) {
    const auto model = formats::readPackagedLm(package, context.compat);
    if (!model) return fail(model.error());
    const LmSource& lm = model.value();
    if (const auto values = formats::checkValues(*lm.bytes, lm.tensors); !values) return fail(values.error());
    Json json = packageJson(package, "EVL0");
    json.update(lmJson(lm));
    return show(context, lm.warnings, std::move(json), packageText(package, "EVL0") + lmText(lm));
}

int inspectPackagedLayer(const Context& context, const Package& package) {
    const auto layer = formats::readPackagedLayer(package, context.compat);
    if (!layer) return fail(layer.error());
    if (const auto valid = validate(layer.value().description); !valid)
        return fail(layer.value().bytes->name(), valid.error());
    if (const auto values = formats::checkValues(layer.value()); !values) return fail(values.error());
    Json json = packageJson(package, "MoE0");
    json.update(layerJson(layer.value()));
    const int code = show(context, layer.value().warnings, std::move(json), packageText(package, "MoE0"));
    if (!context.json) printLayer(layer.value());
    return code;
}

int inspectPackage(const Context& context, const Source& file) {
    const auto package = formats::readPackage(file, context.compat);
    if (!package) return fail(package.error());
    return package.value().isLm() ? inspectPackagedLm(context, package.value())
                                  : inspectPackagedLayer(context, package.value());
}

}  // namespace

std::optional<int> inspectModelFile(const Context& context, const std::string& path) {
    const auto file = openFile(path);
    if (!file) return {};  // a folder, or nothing; others say it
    const auto kind = formats::kindOf(*file.value());
    if (!kind) return fail(kind.error());
    switch (kind.value()) {
        case formats::FileKind::language_model:
            return inspectLm(context, file.value());
        case formats::FileKind::delta:
            return inspectDelta(context, file.value());
        case formats::FileKind::package:
            return inspectPackage(context, file.value());
        default:
            return {};
    }
}

}  // namespace vkmoe::program
