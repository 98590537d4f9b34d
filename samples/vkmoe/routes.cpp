#include "samples/vkmoe/routes.h"

#include <fmt/format.h>

#include <cmath>

#include "host/file.h"

namespace vkmoe::program {
namespace {

constexpr uint64_t kLargestRoutes = uint64_t{1} << 30;

template <class T>
Json rows(const std::vector<T>& values, uint32_t width) {
    Json out = Json::array();
    for (size_t at = 0; at < values.size(); at += width) {
        Json row = Json::array();
        for (size_t i = at; i < at + width; ++i) row.push_back(values[i]);
        out.push_back(std::move(row));
    }
    return out;
}

Error bad(const std::string& path, const std::string& what) { return {ErrorCode::bad_input, path + ": " + what}; }

// One token's row of `experts` and of `gates` into the routes.
Result<void> readToken(const std::string& path, size_t t, const Json& experts, const Json& gates, const Description& d,
                       Routes& routes) {
    if (!experts.is_array() || !gates.is_array() || experts.size() != d.top_k || gates.size() != d.top_k)
        return bad(path, fmt::format("token {}: experts and gates must be lists of top_k = {} numbers", t, d.top_k));
    for (uint32_t m = 0; m < d.top_k; ++m) {
        if (!experts[m].is_number_unsigned() || experts[m].get<uint64_t>() >= d.experts)
            return bad(path,
                       fmt::format("token {}: expert {} is not one of 0 to {}", t, experts[m].dump(), d.experts - 1));
        if (!gates[m].is_number() || !(std::fabs(gates[m].get<double>()) < 0x1p63))
            return bad(path, fmt::format("token {}: gate {} is not a number below 2^63", t, gates[m].dump()));
        auto expert = experts[m].get<uint32_t>();
        for (uint32_t i = 0; i < m; ++i)
            if (routes.experts[routes.experts.size() - 1 - i] == expert)
                return bad(path, fmt::format("token {}: expert {} is listed twice", t, expert));
        routes.experts.push_back(expert);
        routes.gates.push_back(gates[m].get<float>());
    }
    return {};
}

}  // namespace

Json routesToJson(const Routes& routes) {
    return {{"top_k", routes.top_k},
            {"experts", rows(routes.experts, routes.top_k)},
            {"gates", rows(routes.gates, routes.top_k)}};
}

Result<Routes> routesFromFile(const std::string& path, const Description& d, uint64_t tokens) {
    VKMOE_TRY(bytes, readFile(path, kLargestRoutes));
    const char* text = reinterpret_cast<const char*>(bytes.data());
    Json json = Json::parse(text, text + bytes.size(), nullptr, false);
    if (!json.is_object()) return bad(path, "not a JSON object of routes");
    for (const char* key : {"top_k", "experts", "gates"})
        if (!json.contains(key)) return bad(path, fmt::format("\"{}\" is missing", key));
    if (json["top_k"] != d.top_k)
        return bad(path, fmt::format("top_k is {}, the layer's is {}", json["top_k"].dump(), d.top_k));
    const Json &experts = json["experts"], &gates = json["gates"];
    if (!experts.is_array() || !gates.is_array() || experts.size() != tokens || gates.size() != tokens)
        return bad(path, fmt::format("experts and gates must be lists of {} tokens", tokens));
    Routes routes;
    routes.top_k = d.top_k;
    for (size_t t = 0; t < tokens; ++t) VKMOE_CHECK(readToken(path, t, experts[t], gates[t], d, routes));
    return routes;
}

Json introspectionToJson(const Introspection& introspection) {
    Json experts = Json::array();
    for (const auto& expert : introspection.experts)
        experts.push_back({{"tokens", expert.tokens},
                           {"mean_gate", expert.mean_gate},
                           {"output_rms", expert.output_rms},
                           {"activation_sparsity", expert.quiet_fraction},
                           {"mean_probability", expert.mean_probability}});
    return {{"load_balance_loss", introspection.load_balance_loss}, {"experts", experts}};
}

}  // namespace vkmoe::program
