#include "samples/vkmoe/one_layer.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "engine/formats/check_values.h"
#include "engine/formats/model_source.h"

namespace vkmoe::program {

Result<formats::LayerSource> openOneLayer(const std::string& path, bool compat) {
    VKMOE_TRY(model, formats::openModel(path, {.compat = compat}));
    if (model.stack)
        return Error{ErrorCode::unsupported, fmt::format("{}: is a stack of {} layers; one layer is trained at a time",
                                                         path, model.layers.size())};
    for (const auto& warning : model.warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    VKMOE_CHECK(formats::checkValues(model.layers[0]));
    return std::move(model.layers[0]);
}

Result<void> checkTarget(const std::string& path) {
    std::error_code error;
    const auto folder = std::filesystem::path(path).parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder, error))
        return Error{ErrorCode::io, fmt::format("{}: {} is no folder", path, folder.string())};
    if (std::filesystem::is_directory(path, error)) return Error{ErrorCode::io, fmt::format("{}: is a folder", path)};
    return {};
}

Error aboutFiles(const std::string& input, const std::string& second, Error error) {
    if (error.detail.starts_with("the input"))
        error.detail = input + ": " + error.detail;
    else if (error.detail.starts_with("the gradient") || error.detail.starts_with("the target"))
        error.detail = second + ": " + error.detail;
    return error;
}

}  // namespace vkmoe::program
