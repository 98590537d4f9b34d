#include "tests/train/oracle_expert.h"

#include <algorithm>
#include <cmath>

namespace test {
namespace {

using vkmoe::Activation;
using vkmoe::Description;

constexpr double kFar = 1e30;

// How near gate and up are to a corner of the activation.
double cornerDistance(const Description& d, double gate, double up) {
    double limit = double(d.swiglu_limit);
    if (d.activation == Activation::relu) return std::fabs(up);
    if (d.activation != Activation::clamped_swiglu) return kFar;
    return std::min(std::fabs(gate - limit), std::fabs(std::fabs(up) - limit));
}

// Derivatives of gate * sigmoid(alpha * gate) and of gelu's tanh form.
double swishSlope(double gate, double alpha) {
    double s = referenceSigmoid(alpha * gate);
    return s + alpha * gate * s * (1 - s);
}

double geluSlope(double g) {
    constexpr double a = 0.7978845608028654, b = 0.044715;
    double t = std::tanh(a * (g + b * g * g * g));
    return 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * a * (1 + 3 * b * g * g);
}

// Derivatives of hidden(gate, up) by gate and by up.
std::pair<double, double> hiddenSlopes(const Description& d, double gate, double up) {
    double limit = double(d.swiglu_limit), alpha = double(d.swiglu_alpha);
    switch (d.activation) {
        case Activation::relu:
            return {0, up > 0 ? 1 : 0};
        case Activation::silu_glu:
            return {swishSlope(gate, 1) * up, gate * referenceSigmoid(gate)};
        case Activation::gelu_glu:
            return {geluSlope(gate) * up, referenceHidden(d, gate, 1)};
        case Activation::clamped_swiglu: {
            double g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
            return {gate > limit ? 0 : swishSlope(g, alpha) * (u + 1), u != up ? 0 : g * referenceSigmoid(alpha * g)};
        }
    }
    return {0, 0};
}

}  // namespace

ExpertValues runExpert(const ReferenceExpert& expert, const Description& d, const Doubles& x, size_t width) {
    ExpertValues v;
    v.up = referenceProduct(expert.up, expert.up_bias, x, width);
    v.gate = expert.gate.empty() ? v.up : referenceProduct(expert.gate, expert.gate_bias, x, width);
    for (size_t j = 0; j < width; ++j) {
        v.hidden.push_back(referenceHidden(d, v.gate[j], v.up[j]));
        v.corner = std::min(v.corner, cornerDistance(d, v.gate[j], v.up[j]));
    }
    v.y = referenceProduct(expert.down, expert.down_bias, v.hidden, x.size());
    return v;
}

void productBackward(const Doubles& weights, const Doubles& x, const Doubles& grad_y, Doubles& grad_weights,
                     Doubles& grad_bias, Doubles& grad_x) {
    for (size_t r = 0; r < grad_y.size(); ++r) {
        if (grad_y[r] == 0) continue;
        if (!grad_bias.empty()) grad_bias[r] += grad_y[r];
        for (size_t c = 0; c < x.size(); ++c) {
            grad_weights[r * x.size() + c] += grad_y[r] * x[c];
            grad_x[c] += grad_y[r] * weights[r * x.size() + c];
        }
    }
}

void expertBackward(const ReferenceExpert& expert, const Description& d, const ExpertValues& v, const Doubles& x,
                    const Doubles& grad_y, ReferenceExpert& grad, Doubles& grad_x) {
    Doubles grad_hidden(v.hidden.size()), grad_gate, grad_up;
    productBackward(expert.down, v.hidden, grad_y, grad.down, grad.down_bias, grad_hidden);
    for (size_t j = 0; j < v.hidden.size(); ++j) {
        auto [by_gate, by_up] = hiddenSlopes(d, v.gate[j], v.up[j]);
        grad_gate.push_back(grad_hidden[j] * by_gate);
        grad_up.push_back(grad_hidden[j] * by_up);
    }
    if (d.gated()) productBackward(expert.gate, x, grad_gate, grad.gate, grad.gate_bias, grad_x);
    productBackward(expert.up, x, grad_up, grad.up, grad.up_bias, grad_x);
}

}  // namespace test
