#include "samples/vkmoe/one_layer.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>

#include "engine/formats/check_values.h"
#include "engine/formats/model_source.h"
#include "samples/vkmoe/tensor_file.h"

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

Result<std::vector<float>> readFiniteRows(const std::string& path, uint32_t width) {
    VKMOE_TRY(values, readTokens(path, width));
    for (size_t i = 0; i < values.size(); ++i)
        if (!(std::abs(values[i]) < 0x1p63f))
            return Error{ErrorCode::bad_input,
                         fmt::format("{}: token {}, element {} is not {}", path, i / width, i % width,
                                     std::isfinite(values[i]) ? "below 2^63 in size" : "finite")};
    return values;
}

}  // namespace vkmoe::program
