#include "samples/vkmoe/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "samples/vkmoe/html.h"

namespace vkmoe::program {
namespace {

constexpr uint32_t kColumns = 128;  // of the heat map

std::string deviceTable(const Report& report) {
    std::string rows;
    for (const DeviceRun& run : report.runs)
        rows += fmt::format(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=n>{:.1f}</td><td class=n>{:.0f}</td><td "
            "class=n>{}</td><td><code>{}</code></td></tr>\n",
            escaped(run.info.name), name(run.info.type), escaped(run.info.driver), run.result.seconds * 1e3,
            double(run.result.tokens) / run.result.seconds, run.result.submits, run.checksum);
    return "<div class=scroll><table><tr><th>device<th>type<th>driver<th class=n>ms<th class=n>tokens/s<th "
           "class=n>submits<th>output bits (XXH3)</tr>\n" +
           rows + "</table></div>\n";
}

// Experts down, tokens across, opacity by how many of a column's assignments the expert took.
std::string heatMap(const Routes& routes, uint32_t experts) {
    size_t tokens = routes.experts.size() / routes.top_k;
    auto columns = uint32_t(std::min<size_t>(kColumns, tokens));
    std::vector<uint32_t> cells(size_t{experts} * columns);
    for (size_t a = 0; a < routes.experts.size(); ++a)
        ++cells[routes.experts[a] * columns + a / routes.top_k * columns / tokens];
    uint32_t most = std::max(1u, *std::max_element(cells.begin(), cells.end()));
    const uint32_t width = 900, left = 34, cell_height = std::clamp(320 / experts, 4u, 22u);
    double cell_width = double(width - left) / columns;
    std::string svg = fmt::format("<svg viewBox='0 0 {} {}' role=img aria-label='routing heat map'>\n", width,
                                  experts * cell_height + 20);
    for (uint32_t e = 0; e < experts; ++e) {
        if (cell_height >= 11 || e % 8 == 0)
            svg += fmt::format("<text x={} y={} text-anchor=end>{}</text>\n", left - 6,
                               (e + 1) * cell_height - cell_height / 4, e);
        for (uint32_t c = 0; c < columns; ++c)
            if (uint32_t n = cells[size_t{e} * columns + c])
                svg += fmt::format(
                    "<rect x={:.2f} y={} width={:.2f} height={} fill='var(--bar)' fill-opacity={:.2f}><title>expert "
                    "{}: {}</title></rect>",
                    left + c * cell_width, e * cell_height, cell_width, cell_height - 1, double(n) / most, e, n);
        svg += "\n";
    }
    return svg + fmt::format("<text x={} y={}>token 0</text><text x={} y={} text-anchor=end>token {}</text></svg>\n",
                             left, experts * cell_height + 15, width, experts * cell_height + 15, tokens - 1);
}

std::string loadHistogram(const Introspection& introspection) {
    uint64_t most = 1;
    for (const auto& e : introspection.experts) most = std::max(most, e.tokens);
    std::string rows;
    for (size_t i = 0; i < introspection.experts.size(); ++i) {
        const auto& e = introspection.experts[i];
        rows += fmt::format(
            "<tr><td>{}</td><td style='width:40%'><svg viewBox='0 0 100 6' preserveAspectRatio=none "
            "style='height:.8rem'><rect width={:.1f} "
            "height=6 fill='var(--bar)'/></svg></td><td class=n>{}</td><td class=n>{:.4f}</td><td "
            "class=n>{:.4g}</td><td class=n>{:.1f}%</td></tr>\n",
            i, 100.0 * double(e.tokens) / double(most), e.tokens, e.mean_gate, e.output_rms, 100 * e.quiet_fraction);
    }
    return "<div class=scroll><table><tr><th>expert<th>load<th class=n>tokens<th class=n>mean gate<th class=n>output "
           "RMS<th class=n>sparsity</tr>\n" +
           rows + "</table></div>\n";
}

}  // namespace

std::string reportHtml(const Report& report) {
    const Description& d = report.description;
    const ForwardResult& result = report.runs.front().result;
    std::string verdict = report.runs.size() < 2 ? "<p>Only the CPU ran: nothing to compare.</p>\n"
                          : report.same_bits     ? "<p class=good>Every device gave the same output, bit for bit.</p>\n"
                                                 : "<p class=bad>The devices' outputs DIFFER.</p>\n";
    return pageHead("VkMoE report") +
           fmt::format(
               "<h1>VkMoE</h1><p class=soft>{}: {} experts, top {}, D {}, F {}, score {}, activation {}, shared expert "
               "{}. {} tokens, {} precision.</p>\n",
               escaped(report.checkpoint), d.experts, d.top_k, d.model_dim, d.hidden_dim, name(d.score),
               name(d.activation), name(d.shared), result.tokens, report.precision) +
           "<h2>Where it ran</h2>\n" + deviceTable(report) + verdict + "<h2>Who went where</h2>\n" +
           heatMap(result.routes, d.experts) +
           fmt::format(
               "<h2>Load</h2><p class=soft>load balance loss {:.4f}; 1 is even, {} is collapse. Sparsity: hidden "
               "values below 0.01.</p>\n",
               result.introspection.load_balance_loss, d.experts) +
           loadHistogram(result.introspection) + "</html>\n";
}

}  // namespace vkmoe::program
