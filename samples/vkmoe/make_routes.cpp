// vkmoe routes: routes as unevenly spread as real ones, for `run --routes-in`, and tokens to go with them.
#include <fmt/format.h>

#include <cmath>

#include "host/zipf_visits.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/targets.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

constexpr uint64_t kMostValues = uint64_t{1} << 28;

Result<void> check(const MakeRoutesOptions& options) {
    const ZipfOptions& r = options.routes;
    auto bad = [](std::string sentence) { return Error{ErrorCode::bad_input, std::move(sentence)}; };
    if (r.top_k > r.experts) return bad(fmt::format("top-k is {}, must be at most the {} experts", r.top_k, r.experts));
    if (uint64_t{r.layers} * r.tokens > kMostValues / r.top_k)
        return bad(fmt::format("{} layers of {} tokens with top-k {} are more than {} routes", r.layers, r.tokens,
                               r.top_k, kMostValues));
    VKMOE_CHECK(checkTarget(options.output));
    if (!options.input.empty()) VKMOE_CHECK(checkTarget(options.input, {options.output}));
    for (const auto& [name, value] : {std::pair("--zipf", r.zipf), std::pair("--repeat", r.repeat)})
        if (!std::isfinite(value)) return bad(fmt::format("{} is {}, must be a finite number", name, value));
    if (options.input.empty() != (options.model_dim == 0))
        return bad("tokens need both --input, where they go, and --model-dim, their width");
    if (uint64_t{r.tokens} * options.model_dim > kMostValues)
        return bad(
            fmt::format("{} tokens of width {} are more than {} values", r.tokens, options.model_dim, kMostValues));
    return {};
}

// "[[3,1],[0,2],...]": a row for each of the layer's tokens.
std::string expertRows(const ZipfOptions& r, const std::vector<Visit>& visits, uint32_t layer) {
    std::string text;
    for (size_t i = layer; i < visits.size(); i += r.layers) {
        text += text.empty() ? "[[" : ",[";
        for (size_t k = 0; k < r.top_k; ++k)
            text += fmt::format("{}{}", k == 0 ? "" : ",", visits[i].pages[k] - layer * r.experts);
        text += ']';
    }
    return text.empty() ? "[]" : text + ']';
}

std::string gateRows(const ZipfOptions& r) {
    std::string row = "[", text;
    for (uint32_t k = 0; k < r.top_k; ++k) row += fmt::format("{}{}", k == 0 ? "" : ",", 1.0f / float(r.top_k));
    for (uint32_t t = 0; t < r.tokens; ++t) text += (t == 0 ? "[" : ",") + row + "]";
    return text.empty() ? "[]" : text + ']';
}

std::string routesText(const ZipfOptions& r) {
    std::vector<Visit> visits = zipfVisits(r);
    std::string text = "{\"layers\":[", gates = gateRows(r);
    for (uint32_t layer = 0; layer < r.layers; ++layer)
        text += fmt::format("{}\n{{\"top_k\":{},\"experts\":{},\"gates\":{}}}", layer == 0 ? "" : ",", r.top_k,
                            expertRows(r, visits, layer), gates);
    return text + "]}\n";
}

}  // namespace

int makeRoutes(const Context& context, const MakeRoutesOptions& options) {
    const ZipfOptions& r = options.routes;
    if (auto checked = check(options); !checked) return fail(checked.error());
    if (auto written = writeText(options.output, routesText(r)); !written) return fail(written.error());
    if (!options.input.empty()) {
        auto written = writeTokens(options.input, randomTokens(r.tokens, options.model_dim, uint32_t(r.seed)));
        if (!written) return fail(written.error());
    }
    if (context.json)
        print({{"file", options.output},
               {"layers", r.layers},
               {"experts", r.experts},
               {"top_k", r.top_k},
               {"tokens", r.tokens},
               {"zipf", r.zipf},
               {"repeat", r.repeat},
               {"repeat_whole", r.repeat_whole},
               {"seed", r.seed}});
    else
        fmt::print("{}: {} layers, {} experts, top {}, {} tokens, Zipf {}, {:.0f} % repeated, seed {}\n",
                   options.output, r.layers, r.experts, r.top_k, r.tokens, r.zipf, r.repeat * 100, r.seed);
    return kOk;
}

}  // namespace vkmoe::program
