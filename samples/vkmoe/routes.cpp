#include "samples/vkmoe/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/file.h"

namespace vkmoe::program {
namespace {

constexpr uint64_t kLargestRoutes = uint64_t{1} << 30;

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

// A value in a sentence: what is nested is only named.
std::string shown(const Json& value) { return value.is_structured() ? value.type_name() : value.dump(); }

Json layerRoutes(const Routes& routes) {
    return {{"top_k", routes.top_k}, {"experts", rows(routes, routes.experts)}, {"gates", rows(routes, routes.gates)}};
}

// One layer's routes out of a file's JSON.
struct RoutesReader {
    std::string where;  // file and layer, for sentences
    const Description& d;
    bool pool;
    Routes routes = {};

    Error bad(const std::string& what) const { return {ErrorCode::bad_input, where + ": " + what}; }

    // How many experts a token's row must list: with fixed_budget dispatch any number up to `width`.
    bool rightLength(const Json& row, uint32_t width) const {
        return row.is_array() && (d.dispatch == Dispatch::fixed_budget ? row.size() <= width : row.size() == width);
    }

    Result<void> readToken(size_t t, const Json& experts, const Json& gates, uint32_t width) {
        if (!rightLength(experts, width) || !rightLength(gates, width) || gates.size() != experts.size())
            return bad(fmt::format("token {}: experts and gates must be lists of top_k = {} numbers", t, width));
        for (size_t m = 0; m < experts.size(); ++m) {
            bool exists = experts[m].is_number_unsigned() && (pool || experts[m].get<uint64_t>() < d.experts);
            if (!exists)
                return bad(
                    fmt::format("token {}: expert {} is not one of 0 to {}", t, shown(experts[m]), d.experts - 1));
            if (!gates[m].is_number() || !(std::fabs(gates[m].get<double>()) < 0x1p63))
                return bad(fmt::format("token {}: gate {} is not a number below 2^63", t, shown(gates[m])));
            bool twice = std::find(experts.begin(), experts.begin() + std::ptrdiff_t(m), experts[m]) !=
                         experts.begin() + std::ptrdiff_t(m);
            if (twice && !pool && d.dispatch != Dispatch::capacity)
                return bad(fmt::format("token {}: expert {} is listed twice", t, shown(experts[m])));
            routes.experts.push_back(uint32_t(std::min<uint64_t>(experts[m].get<uint64_t>(), kNoExpert - 1)));
            routes.gates.push_back(gates[m].get<float>());
        }
        routes.experts.resize((t + 1) * width, kNoExpert);
        routes.gates.resize((t + 1) * width, 0);
        return {};
    }

    Result<Routes> read(const Json& json, uint64_t tokens) {
        if (!json.is_object()) return bad("not a JSON object of routes");
        for (const char* key : {"top_k", "experts", "gates"})
            if (!json.contains(key)) return bad(fmt::format("\"{}\" is missing", key));
        const Json &experts = json["experts"], &gates = json["gates"], &top_k = json["top_k"];
        bool any_width =
            d.dispatch == Dispatch::fixed_budget && top_k.is_number_unsigned() && top_k >= 1 && top_k <= d.experts;
        if (top_k != d.top_k && !any_width)
            return bad(fmt::format("top_k is {}, the layer's is {}", shown(top_k), d.top_k));
        if (!experts.is_array() || !gates.is_array() || experts.size() != tokens || gates.size() != tokens)
            return bad(fmt::format("experts and gates must be lists of {} tokens", tokens));
        routes.top_k = top_k.get<uint32_t>();
        for (size_t t = 0; t < tokens; ++t) VKMOE_CHECK(readToken(t, experts[t], gates[t], routes.top_k));
        return std::move(routes);
    }
};

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

Result<std::vector<Routes>> routesFromFile(const std::string& path, const Stack& stack, uint64_t tokens, bool pool) {
    VKMOE_TRY(bytes, readFile(path, kLargestRoutes));
    const char* text = reinterpret_cast<const char*>(bytes.data());
    Json json = Json::parse(text, text + bytes.size(), nullptr, false);
    std::vector<Routes> all;
    if (!stack.residual()) {
        VKMOE_TRY(routes, RoutesReader{path, stack.layers().front().description(), pool}.read(json, tokens));
        all.push_back(std::move(routes));
        return all;
    }
    size_t layers = stack.layers().size();
    if (!json.is_object() || !json.contains("layers") || !json["layers"].is_array() || json["layers"].size() != layers)
        return Error{
            ErrorCode::bad_input,
            fmt::format("{}: not a JSON object with \"layers\", a list of the routes of {} layers", path, layers)};
    for (size_t i = 0; i < layers; ++i) {
        RoutesReader reader{fmt::format("{}: layers.{}", path, i), stack.layers()[i].description(), pool};
        VKMOE_TRY(routes, reader.read(json["layers"][i], tokens));
        all.push_back(std::move(routes));
    }
    return all;
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
