#include "tests/moe/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace test {

using vkmoe::Activation;
using vkmoe::Description;
using vkmoe::Score;
using Doubles = std::vector<double>;

Doubles referenceProduct(const Doubles& weights, const Doubles& bias, const Doubles& v, size_t rows) {
    Doubles out(rows);
    for (size_t r = 0; r < rows; ++r) {
        double sum = bias.empty() ? 0 : bias[r];
        for (size_t c = 0; c < v.size(); ++c) sum += weights[r * v.size() + c] * v[c];
        out[r] = sum;
    }
    return out;
}

double referenceSigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double referenceHidden(const Description& d, double gate, double up) {
    double limit = double(d.swiglu_limit);
    switch (d.activation) {
        case Activation::relu:
            return std::max(up, 0.0);
        case Activation::silu_glu:
            return gate * referenceSigmoid(gate) * up;
        case Activation::gelu_glu:
            return 0.5 * gate * (1 + std::tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate))) * up;
        case Activation::clamped_swiglu:
            gate = std::min(gate, limit);
            return gate * referenceSigmoid(double(d.swiglu_alpha) * gate) * (std::clamp(up, -limit, limit) + 1);
    }
    return 0;
}

Doubles referenceSoftmax(const Doubles& logits) {
    double m = *std::max_element(logits.begin(), logits.end()), sum = 0;
    Doubles out;
    for (double l : logits) sum += out.emplace_back(std::exp(l - m));
    for (double& p : out) p /= sum;
    return out;
}

// By which experts are ranked and from which gates are made.
static Doubles scoresOf(const Description& d, const Doubles& logits) {
    if (d.score == Score::softmax) return referenceSoftmax(logits);
    Doubles out = logits;
    if (d.score == Score::sigmoid)
        for (double& x : out) x = referenceSigmoid(x);
    return out;
}

Doubles referenceGates(const Description& d, const Doubles& logits, const std::vector<uint32_t>& chosen) {
    Doubles score = scoresOf(d, logits), gates;
    for (uint32_t e : chosen) gates.push_back(score[e]);
    if (d.score == Score::softmax_selected && !gates.empty()) gates = referenceSoftmax(gates);
    double sum = std::accumulate(gates.begin(), gates.end(), double(d.renormalize_epsilon));
    bool divide = d.renormalize && d.score != Score::softmax_selected;
    for (double& g : gates) g = g / (divide ? sum : 1) * double(d.routed_scale);
    bool even = d.renormalize || d.score == Score::softmax_selected;
    if (chosen.empty()) gates.push_back(double(d.routed_scale) / (even ? 1 : d.top_k));
    return gates;
}

namespace {

// Values, and how far each may be off.
struct Uncertain {
    Doubles value, error;
};

double halfUnit(uint32_t bits) { return bits == 0 ? 0 : std::ldexp(1.0, -int(bits)); }

// weights times v, when each element of v is off by its error and then rounded to `bits`.
Uncertain apply(const Doubles& weights, const Doubles& bias, const Uncertain& v, size_t rows, uint32_t bits) {
    Uncertain out{referenceProduct(weights, bias, v.value, rows), Doubles(rows)};
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < v.value.size(); ++c) {
            double rounded = (std::fabs(v.value[c]) + v.error[c]) * halfUnit(bits);
            out.error[r] += std::fabs(weights[r * v.value.size() + c]) * (v.error[c] + rounded);
        }
    return out;
}

// No activation of a gate, as a function, is steeper than this (silu 1.0998, gelu 1.129, swish with any alpha 1.0998).
constexpr double kSteepest = 1.13;

// The error of hidden(gate, up) = f(gate) * g(up) by those of gate and up.
double hiddenError(const Description& d, double gate, double gate_error, double up, double up_error) {
    if (d.activation == Activation::relu) return up_error;
    double limit = double(d.swiglu_limit);
    bool clamped = d.activation == Activation::clamped_swiglu;
    double u = clamped ? std::clamp(up, -limit, limit) + 1 : up;
    double f = u == 0 ? std::fabs(gate) : std::fabs(referenceHidden(d, gate, up) / u);  // |f(gate)| <= |gate|
    return kSteepest * gate_error * (std::fabs(u) + up_error) + f * up_error;
}

Uncertain runExpert(const ReferenceExpert& expert, const Description& d, const Doubles& x, size_t width,
                    uint32_t up_bits, uint32_t down_bits) {
    Uncertain exact{x, Doubles(x.size())};
    auto up = apply(expert.up, expert.up_bias, exact, width, up_bits);
    auto gate = expert.gate.empty() ? up : apply(expert.gate, expert.gate_bias, exact, width, up_bits);
    Uncertain h{Doubles(width), Doubles(width)};
    for (size_t i = 0; i < width; ++i) {
        h.value[i] = referenceHidden(d, gate.value[i], up.value[i]);
        h.error[i] = hiddenError(d, gate.value[i], gate.error[i], up.value[i], up.error[i]);
    }
    return apply(expert.down, expert.down_bias, h, x.size(), down_bits);
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
    ReferenceRoutes& result;
    std::vector<uint32_t> taken = std::vector<uint32_t>(d.experts);
    uint32_t capacity;

    void margin(const Doubles& values, const std::vector<uint32_t>& order, size_t ranks) {
        for (size_t m = 0; m < ranks && m + 1 < order.size(); ++m)
            if (std::isfinite(values[order[m + 1]]))
                result.smallest_margin = std::min(result.smallest_margin, values[order[m]] - values[order[m + 1]]);
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
        auto chosen = choose(selection(scoresOf(d, logits)));
        auto gates = referenceGates(d, logits, chosen);
        result.chosen.push_back(uint32_t(chosen.size()));
        if (chosen.empty()) chosen.push_back(0);
        chosen.resize(d.top_k, chosen.back());
        gates.resize(d.top_k, 0);
        result.selected.insert(result.selected.end(), chosen.begin(), chosen.end());
        result.gates.insert(result.gates.end(), gates.begin(), gates.end());
    }
};

Uncertain combine(const ReferenceLayer& layer, const Doubles& v, const uint32_t* experts, const double* gates,
                  const Rounding& rounding) {
    const Description& d = layer.description;
    Uncertain out{Doubles(d.model_dim), Doubles(d.model_dim)};
    auto add = [&](double gate, const Uncertain& y) {
        for (size_t i = 0; i < d.model_dim; ++i) {
            out.value[i] += gate * y.value[i];
            out.error[i] += std::fabs(gate) * y.error[i];
        }
    };
    if (d.shared != vkmoe::Shared::none) {
        bool gated = d.shared == vkmoe::Shared::sigmoid_gated;
        double gate = gated ? referenceSigmoid(referenceProduct(layer.shared_router, {}, v, 1)[0]) : 1;
        add(gate, runExpert(layer.shared, d, v, d.shared_dim, rounding.shared_up_bits, rounding.shared_down_bits));
    }
    for (uint32_t m = 0; m < d.top_k; ++m)
        add(gates[m], runExpert(layer.experts[experts[m]], d, v, d.hidden_dim, rounding.up_bits, rounding.down_bits));
    return out;
}

}  // namespace

ReferenceRoutes referenceRoute(const ReferenceLayer& layer, const Doubles& logits) {
    const auto& d = layer.description;
    size_t tokens = logits.size() / d.experts;
    ReferenceRoutes routes;
    double share = std::ceil(double(d.capacity_factor) * double(tokens * d.top_k) / d.experts);
    Router router{.layer = layer, .result = routes, .capacity = uint32_t(std::max(share, 1.0))};
    for (size_t t = 0; t < tokens; ++t)
        router.route(Doubles(logits.begin() + std::ptrdiff_t(t * d.experts),
                             logits.begin() + std::ptrdiff_t((t + 1) * d.experts)));
    return routes;
}

ReferenceResult referenceForward(const ReferenceLayer& layer, const std::vector<float>& x, const Rounding& rounding) {
    const auto& d = layer.description;
    size_t tokens = x.size() / d.model_dim;
    auto token = [&](size_t t) {
        return Doubles(x.begin() + std::ptrdiff_t(t * d.model_dim), x.begin() + std::ptrdiff_t((t + 1) * d.model_dim));
    };
    Doubles logits;
    for (size_t t = 0; t < tokens; ++t)
        for (double l : referenceProduct(layer.router, layer.router_bias, token(t), d.experts)) logits.push_back(l);
    ReferenceResult result{referenceRoute(layer, logits), {}, {}};
    for (size_t t = 0; t < tokens; ++t) {
        auto out = combine(layer, token(t), &result.selected[t * d.top_k], &result.gates[t * d.top_k], rounding);
        result.output.insert(result.output.end(), out.value.begin(), out.value.end());
        result.bound.insert(result.bound.end(), out.error.begin(), out.error.end());
    }
    return result;
}

}  // namespace test
