#include "tests/moe/reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace test {
namespace {

using vkmoe::Activation;
using vkmoe::Score;

// weights [rows, cols] times v, plus bias.
std::vector<double> apply(const std::vector<double>& weights, const std::vector<double>& bias,
                          const std::vector<double>& v, size_t rows) {
    std::vector<double> out(rows);
    for (size_t r = 0; r < rows; ++r) {
        double sum = bias.empty() ? 0 : bias[r];
        for (size_t c = 0; c < v.size(); ++c) sum += weights[r * v.size() + c] * v[c];
        out[r] = sum;
    }
    return out;
}

std::vector<double> runExpert(const ReferenceExpert& expert, Activation activation, const std::vector<double>& x,
                              size_t hidden) {
    auto up = apply(expert.up, expert.up_bias, x, hidden);
    auto gate = expert.gate.empty() ? up : apply(expert.gate, expert.gate_bias, x, hidden);
    for (size_t i = 0; i < hidden; ++i)
        up[i] = activation == Activation::relu ? std::max(up[i], 0.0) : gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return apply(expert.down, expert.down_bias, up, x.size());
}

std::vector<double> softmax(const std::vector<double>& logits) {
    double m = *std::max_element(logits.begin(), logits.end()), sum = 0;
    std::vector<double> out;
    for (double l : logits) sum += out.emplace_back(std::exp(l - m));
    for (double& p : out) p /= sum;
    return out;
}

std::vector<double> gatesOf(const vkmoe::Description& d, const std::vector<double>& logits,
                            const std::vector<uint32_t>& order) {
    std::vector<double> chosen;
    auto probabilities = softmax(logits);
    for (uint32_t m = 0; m < d.top_k; ++m)
        chosen.push_back(d.score == Score::softmax ? probabilities[order[m]] : logits[order[m]]);
    if (d.score == Score::softmax_selected) chosen = softmax(chosen);
    double sum = d.renormalize ? d.renormalize_epsilon + std::accumulate(chosen.begin(), chosen.end(), 0.0) : 1;
    for (double& g : chosen) g = g / sum * double(d.routed_scale);
    return chosen;
}

}  // namespace

ReferenceResult referenceForward(const ReferenceLayer& layer, const std::vector<float>& x) {
    const auto& d = layer.description;
    ReferenceResult result{{}, {}, {}, 1e30};
    for (size_t t = 0; t < x.size() / d.model_dim; ++t) {
        std::vector<double> v(x.begin() + std::ptrdiff_t(t * d.model_dim),
                              x.begin() + std::ptrdiff_t((t + 1) * d.model_dim));
        auto logits = apply(layer.router, {}, v, d.experts);
        std::vector<uint32_t> order(d.experts);
        std::iota(order.begin(), order.end(), 0u);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
        for (uint32_t m = 0; m + 1 < std::min(d.top_k + 1, d.experts); ++m)
            result.smallest_margin = std::min(result.smallest_margin, logits[order[m]] - logits[order[m + 1]]);
        auto gates = gatesOf(d, logits, order);
        std::vector<double> out(d.model_dim);
        if (d.shared != vkmoe::Shared::none) out = runExpert(layer.shared, d.activation, v, d.shared_dim);
        for (uint32_t m = 0; m < d.top_k; ++m) {
            auto y = runExpert(layer.experts[order[m]], d.activation, v, d.hidden_dim);
            for (size_t i = 0; i < out.size(); ++i) out[i] += gates[m] * y[i];
        }
        result.output.insert(result.output.end(), out.begin(), out.end());
        result.selected.insert(result.selected.end(), order.begin(), order.begin() + d.top_k);
        result.gates.insert(result.gates.end(), gates.begin(), gates.end());
    }
    return result;
}

}  // namespace test
