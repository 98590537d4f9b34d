#include "vkmoe/stack.h"

#include <fmt/format.h>

#include "engine/formats/model_source.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// x + y, under the state rule; y is the layer's output, finite and below 2^63 as x is.
Result<void> addResidual(std::span<const float> x, std::vector<float>& y, uint32_t model_dim) {
    for (size_t i = 0; i < y.size(); ++i) {
        y[i] = state_rule(state_rule(x[i]) + y[i]);
        if (out_of_range(y[i]))
            return Error{ErrorCode::bad_input,
                         fmt::format("the sum with the layer's input is not below 2^63 in size at token {}, element {}",
                                     i / model_dim, i % model_dim)};
    }
    return {};
}

}  // namespace

Result<Stack> Stack::open(Engine& engine, const std::string& path, bool compat) {
    VKMOE_TRY(source, formats::openModel(path, {.compat = compat}));
    return create(engine, source);
}

Result<Stack> Stack::create(Engine& engine, const formats::ModelSource& source) {
    Stack stack;
    stack.residual_ = source.stack;
    stack.warnings_ = source.warnings;
    for (const auto& layer : source.layers) {
        VKMOE_TRY(made, Layer::create(engine, layer));
        stack.layers_.push_back(std::move(made));
    }
    return stack;
}

Result<StackResult> Stack::forward(std::span<const float> x, const ForwardOptions& options,
                                   std::span<const Routes* const> forced_routes) {
    StackResult result;
    std::vector<float> input;
    for (size_t i = 0; i < layers_.size(); ++i) {
        ForwardOptions layer_options = options;
        layer_options.forced_routes = forced_routes.empty() ? nullptr : forced_routes[i];
        if (options.progress)
            layer_options.progress = [&](uint64_t done, uint64_t all) {
                return options.progress(i * all + done, layers_.size() * all);
            };
        std::span<const float> from = i == 0 ? x : std::span<const float>(input);
        auto ran = layers_[i].forward(from, layer_options);
        auto added = ran && residual_ ? addResidual(from, ran->output, modelDim()) : Result<void>();
        if (!ran || !added) {
            Error error = !ran ? std::move(ran).error() : std::move(added).error();
            bool callers = i == 0 && error.detail.starts_with("the input");
            if (residual_ && !callers) error.detail = fmt::format("layers.{}: {}", i, error.detail);
            return error;
        }
        result.seconds += ran->seconds;
        result.submits += ran->submits;
        result.host_waits += ran->host_waits;
        result.tokens = ran->tokens;
        input = std::move(ran->output);
        result.layers.push_back(std::move(ran).value());
    }
    result.output = std::move(input);
    return result;
}

}  // namespace v1
}  // namespace vkmoe
