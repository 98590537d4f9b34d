#include "samples/vkmoe/train_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "samples/vkmoe/html.h"
#include "samples/vkmoe/train_display.h"

namespace vkmoe::program {
namespace {

constexpr double kWidth = 800, kHeight = 240, kLeft = 46, kBottom = 20;
constexpr size_t kMostPoints = 800;
constexpr uint32_t kMostExperts = 64;  // rows of a load chart

struct Point {
    double step, loss;
};

// At most kMostPoints points, each the mean of its neighbours.
std::vector<Point> thinned(const std::vector<Point>& points) {
    const size_t each = (points.size() + kMostPoints - 1) / kMostPoints;
    if (each <= 1) return points;
    std::vector<Point> fewer;
    for (size_t at = 0; at < points.size(); at += each) {
        const size_t end = std::min(at + each, points.size());
        Point mean{0, 0};
        for (size_t i = at; i < end; ++i) mean.step += points[i].step, mean.loss += points[i].loss;
        fewer.push_back({mean.step / double(end - at), mean.loss / double(end - at)});
    }
    return fewer;
}

struct Curves {
    std::vector<Point> training, smoothed, validation;
    double lowest = 0, highest = 1, last_step = 1;

    explicit Curves(const formats::TrainingState& state) {
        SmoothLoss smooth;
        for (size_t i = 0; i < state.losses.size(); ++i) {
            training.push_back({double(i + 1), double(state.losses[i])});
            smoothed.push_back({double(i + 1), smooth.add(double(state.losses[i]))});
        }
        training = thinned(training), smoothed = thinned(smoothed);
        for (const auto& v : state.validations) validation.push_back({double(v.step), v.loss});
        last_step = std::max(1.0, double(state.step));
        measure();
    }

    double x(double step) const { return kLeft + step / last_step * (kWidth - kLeft); }
    double y(double loss) const { return (highest - loss) / (highest - lowest) * kHeight; }

private:
    void measure() {
        bool any = false;
        for (const auto* curve : {&training, &validation})
            for (const Point& point : *curve) {
                lowest = any ? std::min(lowest, point.loss) : point.loss;
                highest = any ? std::max(highest, point.loss) : point.loss;
                any = true;
            }
        const double margin = std::max((highest - lowest) * 0.05, 1e-6);
        lowest -= margin, highest += margin;
    }
};

std::string line(const Curves& curves, const std::vector<Point>& points, const char* style) {
    std::string path;
    for (const Point& point : points) path += fmt::format("{:.1f},{:.1f} ", curves.x(point.step), curves.y(point.loss));
    return fmt::format("<polyline fill=none {} points='{}'/>", style, path);
}

std::string lossChart(const formats::TrainingState& state) {
    if (state.losses.empty()) return "<p class=soft>No step was made.</p>\n";
    const Curves curves(state);
    std::string grid;
    for (int i = 0; i <= 4; ++i) {
        const double loss = curves.lowest + (curves.highest - curves.lowest) * i / 4, y = curves.y(loss);
        grid +=
            fmt::format("<line x1={} x2={} y1={:.1f} y2={:.1f} stroke='var(--line)'/><text x=0 y={:.1f}>{:.3f}</text>",
                        kLeft, kWidth, y, y, std::clamp(y + 4, 10.0, kHeight), loss);
    }
    std::string dots;
    for (const Point& point : curves.validation)
        dots += fmt::format("<circle cx={:.1f} cy={:.1f} r=2.5 fill='var(--bad)'/>", curves.x(point.step),
                            curves.y(point.loss));
    return fmt::format(
        "<svg viewBox='0 -4 {} {}' role=img aria-label='loss over steps'>{}{}{}{}{}<text x={} y={}>step 1</text><text "
        "x={} "
        "y={} text-anchor=end>step {}</text></svg>\n<p class=soft><span "
        "style='color:var(--bar);opacity:.5'>&#9632;</span> "
        "training <span style='color:var(--bar)'>&#9632;</span> smoothed <span style='color:var(--bad)'>&#9632;</span> "
        "validation; nats for each token</p>\n",
        kWidth, kHeight + kBottom + 4, grid, line(curves, curves.training, "stroke='var(--bar)' stroke-opacity=.35"),
        line(curves, curves.smoothed, "stroke='var(--bar)' stroke-width=2"),
        line(curves, curves.validation, "stroke='var(--bad)' stroke-width=1.5"), dots, kLeft, kHeight + 14, kWidth,
        kHeight + 14, state.step);
}

// Time across, experts down; a cell is as dark as its share of the row's tokens is large. Even is a share of 1/experts.
std::string loadChart(const formats::LoadHistory& loads, uint32_t layer) {
    const uint32_t shown = std::min(loads.experts, kMostExperts);
    const double height = std::clamp(160.0 / shown, 3.0, 14.0), width = (kWidth - kLeft) / double(loads.rows());
    std::string cells;
    for (uint64_t row = 0; row < loads.rows(); ++row) {
        const uint64_t* at = loads.loads.data() + (row * loads.layers + layer) * loads.experts;
        double all = 0;
        for (uint32_t e = 0; e < loads.experts; ++e) all += double(at[e]);
        for (uint32_t e = 0; e < shown && all > 0; ++e)
            cells += fmt::format(
                "<rect x={:.1f} y={:.1f} width={:.2f} height={:.1f} fill-opacity={:.2f} fill='var(--bar)'/>",
                kLeft + double(row) * width, e * height, width + 0.3, height - 1,
                std::min(1.0, double(at[e]) / all * loads.experts / 2));
    }
    return fmt::format(
        "<h3>Layer {}</h3><svg viewBox='0 0 {} {}' role=img aria-label='load of the experts over time'>{}<text x=0 "
        "y={:.1f}>0</text><text x=0 y={:.1f}>{}</text></svg>\n",
        layer, kWidth, shown * height + 2, cells, std::max(height - 2, 9.0), shown * height, shown - 1);
}

std::string loadCharts(const TrainReport& report) {
    const formats::LoadHistory& loads = report.state.loads;
    if (loads.rows() == 0) return "";
    std::string html = fmt::format(
        "<h2>Load of the experts</h2><p class=soft>Steps 1 to {} across, experts down; half dark is an even share of "
        "the "
        "tokens, dark twice that or more, empty nothing.{}</p>\n",
        report.state.step,
        loads.experts > kMostExperts ? fmt::format(" The first {} of {} experts.", kMostExperts, loads.experts) : "");
    for (uint32_t layer = 0; layer < loads.layers; ++layer) html += loadChart(loads, layer);
    return html;
}

std::string settingsTable(const formats::TrainingState& state) {
    std::string rows;
    for (const auto& [name, value] : state.options)
        rows += fmt::format("<tr><td><code>{}</code><td>{}</tr>\n", escaped(name), escaped(value));
    return "<h2>Options</h2>\n<div class=scroll><table>" + rows + "</table></div>\n";
}

}  // namespace

std::string trainReportHtml(const TrainReport& report) {
    const LmConfig& c = report.config;
    return pageHead("VkMoE training") +
           fmt::format(
               "<h1>{}</h1><p class=soft>{} parameters: {} tokens of vocabulary, {} layers of width {}, {} experts of "
               "{} "
               "hidden values, {} for each token. {}; on {}.</p>\n<h2>Loss</h2>\n",
               escaped(report.model), parameterCount(c), c.vocab_size, c.layers, c.model_dim, c.experts, c.hidden_dim,
               c.top_k, escaped(report.summary), escaped(report.device)) +
           lossChart(report.state) + loadCharts(report) + settingsTable(report.state) + "</html>\n";
}

}  // namespace vkmoe::program
