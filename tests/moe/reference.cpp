#include "tests/moe/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace test {
namespace {

using vkmoe::Activation;
using vkmoe::Description;
using vkmoe::Score;
using Doubles = std::vector<double>;

// weights [rows, cols] times v, plus bias.
Doubles apply(const Doubles& weights, const Doubles& bias, const Doubles& v, size_t rows) {
    Doubles out(rows);
    for (size_t r = 0; r < rows; ++r) {
        double sum = bias.empty() ? 0 : bias[r];
        for (size_t c = 0; c < v.size(); ++c) sum += weights[r * v.size() + c] * v[c];
        out[r] = sum;
    }
    return out;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double hidden(const Description& d, double gate, double up) {
    double limit = double(d.swiglu_limit);
    switch (d.activation) {
        case Activation::relu:
            return std::max(up, 0.0);
        case Activation::silu_glu:
            return gate * sigmoid(gate) * up;
        case Activation::gelu_glu:
            return 0.5 * gate * (1 + std::tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate))) * up;
        case Activation::clamped_swiglu:
            gate = std::min(gate, limit);
            return gate * sigmoid(double(d.swiglu_alpha) * gate) * (std::clamp(up, -limit, limit) + 1);
    }
    return 0;
}

Doubles runExpert(const ReferenceExpert& expert, const Description& d, const Doubles& x, size_t width) {
    auto up = apply(expert.up, expert.up_bias, x, width);
    auto gate = expert.gate.empty() ? up : apply(expert.gate, expert.gate_bias, x, width);
    for (size_t i = 0; i < width; ++i) up[i] = hidden(d, gate[i], up[i]);
    return apply(expert.down, expert.down_bias, up, x.size());
}

Doubles softmax(const Doubles& logits) {
    double m = *std::max_element(logits.begin(), logits.end()), sum = 0;
    Doubles out;
    for (double l : logits) sum += out.emplace_back(std::exp(l - m));
    for (double& p : out) p /= sum;
    return out;
}

std::vector<uint32_t> descending(const Doubles& values) {
    std::vector<uint32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return values[a] > values[b]; });
    return order;
}

// Routing of one call: capacity couples its tokens.
struct Router {
    const ReferenceLayer& layer;
    const Description& d = layer.description;
    ReferenceResult& result;
    std::vector<uint32_t> taken = std::vector<uint32_t>(d.experts);
    uint32_t capacity;

    void margin(const Doubles& values, const std::vector<uint32_t>& order, size_t ranks) {
        for (size_t m = 0; m < ranks && m + 1 < order.size(); ++m)
            if (std::isfinite(values[order[m + 1]]))
                result.smallest_margin = std::min(result.smallest_margin, values[order[m]] - values[order[m + 1]]);
    }

    Doubles scores(const Doubles& logits) const {
        if (d.score == Score::softmax) return softmax(logits);
        Doubles out = logits;
        if (d.score == Score::sigmoid)
            for (double& x : out) x = sigmoid(x);
        return out;
    }

    // What experts are chosen by: dropped groups at minus infinity.
    Doubles selection(const Doubles& score) {
        Doubles c = score;
        if (d.selection_bias)
            for (size_t e = 0; e < c.size(); ++e) c[e] += layer.selection_bias[e];
        if (d.groups == 1) return c;
        size_t size = d.experts / d.groups;
        Doubles groups;
        for (size_t g = 0; g < d.groups; ++g) {
            Doubles members(c.begin() + std::ptrdiff_t(g * size), c.begin() + std::ptrdiff_t((g + 1) * size));
            std::sort(members.rbegin(), members.rend());
            groups.push_back(d.group_score == vkmoe::GroupScore::max ? members[0] : members[0] + members[1]);
        }
        auto order = descending(groups);
        margin(groups, order, d.groups_kept);
        for (size_t r = d.groups_kept; r < order.size(); ++r)
            std::fill_n(c.begin() + std::ptrdiff_t(order[r] * size), size, -std::numeric_limits<double>::infinity());
        return c;
    }

    std::vector<uint32_t> choose(const Doubles& by) {
        auto order = descending(by);
        margin(by, order, d.dispatch == vkmoe::Dispatch::capacity ? d.experts : d.top_k);
        std::vector<uint32_t> chosen;
        for (uint32_t e : order) {
            if (chosen.size() == d.top_k || !std::isfinite(by[e])) break;
            if (d.dispatch == vkmoe::Dispatch::capacity && taken[e]++ >= capacity) {
                --taken[e];
                continue;
            }
            chosen.push_back(e);
        }
        return chosen;
    }

    void route(const Doubles& logits) {
        Doubles score = scores(logits), gates;
        auto chosen = choose(selection(score));
        for (uint32_t e : chosen) gates.push_back(score[e]);
        if (d.score == Score::softmax_selected && !gates.empty()) gates = softmax(gates);
        if (chosen.empty()) {
            chosen.push_back(0);
            gates.push_back(1.0 / d.top_k);
        }
        double sum = std::accumulate(gates.begin(), gates.end(), 0.0) + double(d.renormalize_epsilon);
        bool divide = d.renormalize || d.score == Score::softmax_selected;
        for (double& g : gates) g = g / (divide ? sum : 1) * double(d.routed_scale);
        chosen.resize(d.top_k, chosen.back());
        gates.resize(d.top_k, 0);
        result.selected.insert(result.selected.end(), chosen.begin(), chosen.end());
        result.gates.insert(result.gates.end(), gates.begin(), gates.end());
    }
};

Doubles combine(const ReferenceLayer& layer, const Doubles& v, const uint32_t* experts, const double* gates) {
    const Description& d = layer.description;
    Doubles out(d.model_dim);
    if (d.shared != vkmoe::Shared::none) out = runExpert(layer.shared, d, v, d.shared_dim);
    if (d.shared == vkmoe::Shared::sigmoid_gated) {
        double gate = sigmoid(apply(layer.shared_router, {}, v, 1)[0]);
        for (double& y : out) y *= gate;
    }
    for (uint32_t m = 0; m < d.top_k; ++m) {
        auto y = runExpert(layer.experts[experts[m]], d, v, d.hidden_dim);
        for (size_t i = 0; i < out.size(); ++i) out[i] += gates[m] * y[i];
    }
    return out;
}

}  // namespace

ReferenceResult referenceForward(const ReferenceLayer& layer, const std::vector<float>& x) {
    const auto& d = layer.description;
    size_t tokens = x.size() / d.model_dim;
    ReferenceResult result;
    double share = std::ceil(double(d.capacity_factor) * double(tokens * d.top_k) / d.experts);
    Router router{.layer = layer, .result = result, .capacity = uint32_t(std::max(share, 1.0))};
    for (size_t t = 0; t < tokens; ++t) {
        Doubles v(x.begin() + std::ptrdiff_t(t * d.model_dim), x.begin() + std::ptrdiff_t((t + 1) * d.model_dim));
        router.route(apply(layer.router, layer.router_bias, v, d.experts));
        auto out = combine(layer, v, &result.selected[t * d.top_k], &result.gates[t * d.top_k]);
        result.output.insert(result.output.end(), out.begin(), out.end());
    }
    return result;
}

}  // namespace test
