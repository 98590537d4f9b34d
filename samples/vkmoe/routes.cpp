#include "samples/vkmoe/routes.h"

namespace vkmoe::program {
namespace {

// Rows without the places that hold no expert.
template <class T>
Json rows(const Routes& routes, const std::vector<T>& values) {
    Json out = Json::array();
    for (size_t at = 0; at < values.size(); at += routes.top_k) {
        Json row = Json::array();
        for (size_t i = at; i < at + routes.top_k; ++i)
            if (routes.experts[i] != kNoExpert) row.push_back(values[i]);
        out.push_back(std::move(row));
    }
    return out;
}

Json layerRoutes(const Routes& routes) {
    return {{"top_k", routes.top_k}, {"experts", rows(routes, routes.experts)}, {"gates", rows(routes, routes.gates)}};
}

Json poolToJson(const PoolIntrospection& pool) {
    Json experts = Json::array();
    for (const auto& expert : pool.experts)
        experts.push_back({{"name", expert.name},
                           {"tokens_processed", expert.tokens_processed},
                           {"avg_output_magnitude", expert.avg_output_magnitude},
                           {"avg_activation_sparsity", expert.avg_activation_sparsity},
                           {"specialization_score", expert.specialization_score}});
    return {{"total_tokens", pool.total_tokens},
            {"activation_sparsity", pool.activation_sparsity},
            {"top_contributors", pool.top_contributors},
            {"experts", experts}};
}

}  // namespace

Json routesToJson(const Stack& stack, const StackResult& result) {
    if (!stack.residual()) return layerRoutes(result.layers.front().routes);
    Json layers = Json::array();
    for (const auto& layer : result.layers) layers.push_back(layerRoutes(layer.routes));
    return {{"layers", layers}};
}

Json introspectionToJson(const Introspection& introspection) {
    Json experts = Json::array();
    for (const auto& expert : introspection.experts)
        experts.push_back({{"tokens", expert.tokens},
                           {"mean_gate", expert.mean_gate},
                           {"output_rms", expert.output_rms},
                           {"activation_sparsity", expert.quiet_fraction},
                           {"mean_probability", expert.mean_probability}});
    return {{"load_balance_loss", introspection.load_balance_loss},
            {"experts", experts},
            {"pool", poolToJson(introspection.pool)}};
}

}  // namespace vkmoe::program
