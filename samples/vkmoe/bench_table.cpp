#include "samples/vkmoe/bench_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "samples/vkmoe/html.h"

namespace vkmoe::program {
namespace {

double arithmeticSeconds(const BenchRow& row, const Peaks& peaks) {
    return row.flops / (row.peak_beside > 0 ? row.peak_beside : row.fused ? peaks.fused : peaks.multiply_add);
}

std::string shapeText(const BenchOptions& o) {
    return fmt::format("{} tokens, {} experts, top {}, D {}, F {}", o.tokens, o.experts, o.top_k, o.model_dim,
                       o.hidden_dim);
}

std::string peaksText(const Peaks& p) {
    return fmt::format("measured peaks: {:.1f} GFLOP/s multiply then add, {:.1f} fused, {:.1f} GB/s read",
                       p.multiply_add * 1e-9, p.fused * 1e-9, p.read * 1e-9);
}

}  // namespace

double BenchTable::fraction(const BenchRow& row) const {
    return std::max(arithmeticSeconds(row, peaks), row.bytes / peaks.read) / row.seconds;
}

bool BenchTable::boundByReading(const BenchRow& row) const {
    return row.bytes / peaks.read > arithmeticSeconds(row, peaks);
}

Json benchJson(const BenchTable& table) {
    Json list = Json::array();
    for (const BenchRow& row : table.rows)
        list.push_back({{"kernel", row.kernel},
                        {"form", row.form},
                        {"ms", row.seconds * 1e3},
                        {"gflops", row.flops / row.seconds * 1e-9},
                        {"gbytes_per_second", row.bytes / row.seconds * 1e-9},
                        {"bound", table.boundByReading(row) ? "read" : "arithmetic"},
                        {"arithmetic_peak_beside_gflops", row.peak_beside * 1e-9},
                        {"percent_of_peak", 100 * table.fraction(row)}});
    const BenchOptions& o = table.options;
    return {{"device", table.device.name},
            {"driver", table.device.driver},
            {"tokens", o.tokens},
            {"experts", o.experts},
            {"top_k", o.top_k},
            {"model_dim", o.model_dim},
            {"hidden_dim", o.hidden_dim},
            {"peaks",
             {{"multiply_add_gflops", table.peaks.multiply_add * 1e-9},
              {"fused_gflops", table.peaks.fused * 1e-9},
              {"read_gbytes_per_second", table.peaks.read * 1e-9}}},
            {"rows", list}};
}

std::string benchText(const BenchTable& table) {
    std::string text = fmt::format("{}, {}\n{}\n\n{:<18} {:<38} {:>10} {:>10} {:>10} {:>9}  {}\n", table.device.name,
                                   shapeText(table.options), peaksText(table.peaks), "kernel", "form", "ms", "GFLOP/s",
                                   "GB/s", "of peak", "bound by");
    for (const BenchRow& row : table.rows)
        text += fmt::format("{:<18} {:<38} {:>10.3f} {:>10.2f} {:>10.2f} {:>8.1f}%  {}\n", row.kernel, row.form,
                            row.seconds * 1e3, row.flops / row.seconds * 1e-9, row.bytes / row.seconds * 1e-9,
                            100 * table.fraction(row), table.boundByReading(row) ? "reading" : "arithmetic");
    return text;
}

std::string benchHtml(const BenchTable& table) {
    std::string rows;
    for (const BenchRow& row : table.rows) {
        double share = 100 * table.fraction(row);
        rows += fmt::format(
            "<tr><td><code>{}</code></td><td>{}</td><td style='width:34%'><svg viewBox='0 0 100 6' "
            "preserveAspectRatio=none style='height:.8rem'><rect width=100 height=6 fill='var(--line)'/><rect "
            "width={:.1f} height=6 fill='var(--bar)'/></svg></td><td class=n>{:.1f}%</td><td>{}</td><td "
            "class=n>{:.3f}</td><td class=n>{:.2f}</td><td class=n>{:.2f}</td></tr>\n",
            escaped(row.kernel), escaped(row.form), std::min(share, 100.0), share,
            table.boundByReading(row) ? "reading" : "arithmetic", row.seconds * 1e3, row.flops / row.seconds * 1e-9,
            row.bytes / row.seconds * 1e-9);
    }
    return pageHead("VkMoE bench") +
           fmt::format(
               "<h1>VkMoE bench</h1><p class=soft>{} ({}): {}. {}. A bar is the share of the peak that bounds "
               "the kernel.</p>\n",
               escaped(table.device.name), escaped(table.device.driver), shapeText(table.options),
               peaksText(table.peaks)) +
           "<div class=scroll><table><tr><th>kernel<th>form<th>share of peak<th class=n><th>bound by<th "
           "class=n>ms<th class=n>GFLOP/s<th class=n>GB/s</tr>\n" +
           rows + "</table></div></html>\n";
}

}  // namespace vkmoe::program
