#include "tests/train/oracle.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "tests/train/oracle_expert.h"

namespace test {
namespace {

using vkmoe::Description;
using vkmoe::Score;
using vkmoe::Shared;

void addExpert(std::vector<std::pair<std::string, Doubles*>>& list, const std::string& prefix, ReferenceExpert& e) {
    for (auto [name, tensor] :
         {std::pair{".gate.weight", &e.gate}, std::pair{".gate.bias", &e.gate_bias}, std::pair{".up.weight", &e.up},
          std::pair{".up.bias", &e.up_bias}, std::pair{".down.weight", &e.down}, std::pair{".down.bias", &e.down_bias}})
        if (!tensor->empty()) list.emplace_back(prefix + name, tensor);
}

// p = softmax(logits): the gradient of logits from p's.
Doubles softmaxBackward(const Doubles& p, const Doubles& grad_p) {
    double mean = 0;
    for (size_t i = 0; i < p.size(); ++i) mean += p[i] * grad_p[i];
    Doubles grad(p.size());
    for (size_t i = 0; i < p.size(); ++i) grad[i] = p[i] * (grad_p[i] - mean);
    return grad;
}

// The gradient of one token's logits from its gates'.
Doubles gatesBackward(const Description& d, const Doubles& logits, const std::vector<uint32_t>& chosen,
                      Doubles grad_gates) {
    Doubles score = d.score == Score::softmax ? referenceSoftmax(logits) : logits, s, grad(logits.size());
    for (double& g : grad_gates) g *= double(d.routed_scale);
    for (uint32_t e : chosen) s.push_back(d.score == Score::sigmoid ? referenceSigmoid(score[e]) : score[e]);
    if (d.score == Score::softmax_selected && !chosen.empty()) {
        grad_gates = softmaxBackward(referenceSoftmax(s), grad_gates);
    } else if (d.renormalize) {  // s / sum
        double sum = double(d.renormalize_epsilon), common = 0;
        for (double one : s) sum += one;
        for (size_t m = 0; m < s.size(); ++m) common += grad_gates[m] * s[m] / (sum * sum);
        for (double& g : grad_gates) g = g / sum - common;
    }
    for (size_t m = 0; m < chosen.size(); ++m)
        grad[chosen[m]] = d.score == Score::sigmoid ? grad_gates[m] * s[m] * (1 - s[m]) : grad_gates[m];
    return d.score == Score::softmax ? softmaxBackward(score, grad) : grad;
}

double logSumExp(const Doubles& logits) {
    double m = *std::max_element(logits.begin(), logits.end()), sum = 0;
    for (double l : logits) sum += std::exp(l - m);
    return m + std::log(sum);
}

void addRouterLosses(const RouterLosses& losses, const Doubles& fraction, const Doubles& logits, Doubles& grad) {
    Doubles p = referenceSoftmax(logits), by_balance = softmaxBackward(p, fraction);
    double z = logSumExp(logits);
    for (size_t e = 0; e < p.size(); ++e) grad[e] += losses.balance_scale * by_balance[e] + losses.z_scale * z * p[e];
}

std::vector<uint32_t> chosenOf(const Description& d, const ReferenceRoutes& routes, size_t token) {
    auto first = routes.selected.begin() + std::ptrdiff_t(token * d.top_k);
    return {first, first + std::ptrdiff_t(routes.chosen[token])};
}

double sharedGate(const ReferenceLayer& layer, const Doubles& x) {
    bool gated = layer.description.shared == Shared::sigmoid_gated;
    return gated ? referenceSigmoid(dot(layer.shared_router, x)) : 1;
}

Doubles outputOf(const ReferenceLayer& layer, const Doubles& x, size_t token, OracleForward& f) {
    const Description& d = layer.description;
    Doubles out(d.model_dim);
    auto addScaled = [&](const ExpertValues& v, double gate) {
        addToRow(out, 0, scaled(v.y, gate));
        f.smallest_corner = std::min(f.smallest_corner, v.corner);
    };
    if (d.shared != Shared::none) addScaled(runExpert(layer.shared, d, x, d.shared_dim), sharedGate(layer, x));
    for (size_t m = token * d.top_k; m < (token + 1) * d.top_k; ++m)
        addScaled(runExpert(layer.experts[f.routes.selected[m]], d, x, d.hidden_dim), f.routes.gates[m]);
    return out;
}

ReferenceRoutes givenRoutes(const Description& d, const Doubles& logits, const OracleChoice& choice) {
    ReferenceRoutes routes{choice.selected, choice.chosen, {}};
    size_t tokens = logits.size() / d.experts;
    if (routes.chosen.empty()) routes.chosen.assign(tokens, d.top_k);
    for (size_t t = 0; t < tokens; ++t) {
        Doubles gates = referenceGates(d, rowOf(logits, t, d.experts), chosenOf(d, routes, t));
        gates.resize(d.top_k);
        routes.gates.insert(routes.gates.end(), gates.begin(), gates.end());
    }
    return routes;
}

// One token of the backward pass.
struct TokenBackward {
    const ReferenceLayer& layer;
    const ReferenceRoutes& routes;
    ReferenceLayer& grad;
    Doubles x, grad_out;
    Doubles grad_x = Doubles(x.size()), grad_gates = {};
    const Description& d = layer.description;

    void shared() {
        if (d.shared == Shared::none) return;
        double gate = sharedGate(layer, x);
        ExpertValues v = runExpert(layer.shared, d, x, d.shared_dim);
        expertBackward(layer.shared, d, v, x, scaled(grad_out, gate), grad.shared, grad_x);
        if (d.shared != Shared::sigmoid_gated) return;
        Doubles none;
        productBackward(layer.shared_router, x, {dot(grad_out, v.y) * gate * (1 - gate)}, grad.shared_router, none,
                        grad_x);
    }

    void experts(size_t token) {
        for (size_t m = token * d.top_k; m < (token + 1) * d.top_k; ++m) {
            bool there = m < token * d.top_k + routes.chosen[token];
            grad_gates.push_back(0);
            if (!there && routes.gates[m] == 0) continue;
            uint32_t e = routes.selected[m];
            ExpertValues v = runExpert(layer.experts[e], d, x, d.hidden_dim);
            expertBackward(layer.experts[e], d, v, x, scaled(grad_out, routes.gates[m]), grad.experts[e], grad_x);
            grad_gates.back() = dot(grad_out, v.y);
        }
    }

    void router(const Doubles& grad_logits) {
        productBackward(layer.router, x, grad_logits, grad.router, grad.router_bias, grad_x);
    }
};

}  // namespace

std::vector<std::pair<std::string, Doubles*>> parametersOf(ReferenceLayer& layer) {
    std::vector<std::pair<std::string, Doubles*>> list{{"router.weight", &layer.router}};
    if (!layer.router_bias.empty()) list.emplace_back("router.bias", &layer.router_bias);
    if (!layer.shared_router.empty()) list.emplace_back("shared.router.weight", &layer.shared_router);
    addExpert(list, "shared", layer.shared);
    for (size_t e = 0; e < layer.experts.size(); ++e) addExpert(list, "experts." + std::to_string(e), layer.experts[e]);
    return list;
}

ReferenceLayer zerosLike(const ReferenceLayer& layer) {
    ReferenceLayer zeros = layer;
    for (auto& [name, tensor] : parametersOf(zeros)) std::fill(tensor->begin(), tensor->end(), 0.0);
    return zeros;
}

OracleForward oracleForward(const ReferenceLayer& layer, const Doubles& x, const OracleChoice& choice) {
    const Description& d = layer.description;
    OracleForward f{x, {}, {}, {}};
    for (size_t t = 0; t < f.tokens(d); ++t)
        append(f.logits, referenceProduct(layer.router, layer.router_bias, rowOf(x, t, d.model_dim), d.experts));
    if (!choice.noise.empty()) addToRow(f.logits, 0, choice.noise);
    f.routes = choice.selected.empty() ? referenceRoute(layer, f.logits) : givenRoutes(d, f.logits, choice);
    for (size_t t = 0; t < f.tokens(d); ++t) append(f.output, outputOf(layer, rowOf(x, t, d.model_dim), t, f));
    return f;
}

OracleGradients oracleBackward(const ReferenceLayer& layer, const OracleForward& f, const Doubles& grad_out,
                               const RouterLosses& losses) {
    const Description& d = layer.description;
    assert(grad_out.size() == f.output.size());
    OracleGradients grads{zerosLike(layer), {}, {}, {}};
    Doubles fraction = losses.fraction.empty() ? oracleFractions(d, f.routes) : losses.fraction;
    for (size_t t = 0; t < f.tokens(d); ++t) {
        TokenBackward token{layer, f.routes, grads.parameters, rowOf(f.x, t, d.model_dim),
                            rowOf(grad_out, t, d.model_dim)};
        token.shared();
        token.experts(t);
        Doubles logits = rowOf(f.logits, t, d.experts), of_chosen = token.grad_gates;
        of_chosen.resize(f.routes.chosen[t]);
        Doubles grad_logits = gatesBackward(d, logits, chosenOf(d, f.routes, t), of_chosen);
        addRouterLosses(losses, fraction, logits, grad_logits);
        token.router(grad_logits);
        append(grads.x, token.grad_x);
        append(grads.gates, token.grad_gates);
        append(grads.logits, grad_logits);
    }
    return grads;
}

Doubles oracleFractions(const Description& d, const ReferenceRoutes& routes) {
    Doubles fraction(d.experts);
    double assignments = 0;
    for (size_t t = 0; t < routes.chosen.size(); ++t)
        for (uint32_t e : chosenOf(d, routes, t)) {
            fraction[e] += 1;
            assignments += 1;
        }
    for (double& f : fraction) f /= std::max(assignments, 1.0);
    return fraction;
}

double oracleBalanceLoss(const Doubles& fraction, const Doubles& logits) {
    size_t experts = fraction.size(), tokens = logits.size() / experts;
    double sum = 0;
    for (size_t t = 0; t < tokens; ++t) sum += dot(fraction, referenceSoftmax(rowOf(logits, t, experts)));
    return tokens == 0 ? 0 : double(experts) * sum / double(tokens);
}

double oracleZLoss(uint32_t experts, const Doubles& logits) {
    size_t tokens = logits.size() / experts;
    double sum = 0;
    for (size_t t = 0; t < tokens; ++t) sum += std::pow(logSumExp(rowOf(logits, t, experts)), 2);
    return tokens == 0 ? 0 : sum / double(tokens);
}

}  // namespace test
