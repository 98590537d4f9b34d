#include "samples/vkmoe/pictures.h"

#include <fmt/format.h>

#include <algorithm>

namespace vkmoe::program {
namespace {

constexpr size_t kMostRows = 32;

std::string bar(double share, double largest, size_t width) {
    static const char* eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    auto units = size_t(largest > 0 ? share / largest * double(width) * 8 : 0);
    std::string text;
    for (size_t i = 0; i < units / 8; ++i) text += "█";
    text += eighths[units % 8];
    size_t shown = units / 8 + (units % 8 != 0);
    return text + std::string(width - std::min(width, shown), ' ');
}

}  // namespace

std::string loadPicture(const Introspection& introspection) {
    uint64_t all = 0, largest = 0;
    for (const auto& e : introspection.experts) all += e.tokens, largest = std::max(largest, e.tokens);
    std::string text = fmt::format("\n  expert   tokens  share {:<32}  mean gate  output RMS  sparsity\n", "");
    size_t rows = std::min(introspection.experts.size(), kMostRows);
    for (size_t i = 0; i < rows; ++i) {
        const auto& e = introspection.experts[i];
        text +=
            fmt::format("  {:>6} {:>8} {:>5.1f}% {}  {:>9.4f}  {:>10.4g}  {:>7.1f}%\n", i, e.tokens,
                        all == 0 ? 0 : 100.0 * double(e.tokens) / double(all),
                        bar(double(e.tokens), double(largest), 32), e.mean_gate, e.output_rms, 100 * e.quiet_fraction);
    }
    if (rows < introspection.experts.size())
        text += fmt::format("  ... and {} more experts\n", introspection.experts.size() - rows);
    return text + fmt::format("  load balance loss {:.4f} (1 is even, {} is collapse)\n",
                              introspection.load_balance_loss, introspection.experts.size());
}

std::string routingPicture(const Routes& routes, uint32_t experts, uint32_t columns) {
    static const char* shades[] = {" ", "░", "▒", "▓", "█"};
    size_t tokens = routes.top_k == 0 ? 0 : routes.experts.size() / routes.top_k;
    size_t rows = std::min<size_t>(experts, kMostRows);
    if (tokens == 0) return "";
    columns = uint32_t(std::min<size_t>(columns, tokens));
    std::vector<uint32_t> cells(rows * columns);
    uint32_t largest = 1;
    for (size_t a = 0; a < routes.experts.size(); ++a) {
        if (routes.experts[a] >= rows) continue;
        uint32_t& cell = cells[routes.experts[a] * columns + a / routes.top_k * columns / tokens];
        largest = std::max(largest, ++cell);
    }
    std::string text = fmt::format("\n  tokens 0 to {} across, experts down\n", tokens - 1);
    for (size_t e = 0; e < rows; ++e) {
        text += fmt::format("  {:>6} ", e);
        for (uint32_t c = 0; c < columns; ++c) text += shades[(cells[e * columns + c] * 4 + largest - 1) / largest];
        text += "\n";
    }
    return text;
}

}  // namespace vkmoe::program
