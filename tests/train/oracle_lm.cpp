#include "tests/train/oracle_lm.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace test {
namespace {

double rms(const Doubles& x) {
    double squares = 0;
    for (double v : x) squares += v * v;
    return std::sqrt(squares / double(x.size()) + 1e-5);
}

Doubles normed(const Doubles& x, const Doubles& gain, double r) {
    Doubles y(x.size());
    for (size_t c = 0; c < x.size(); ++c) y[c] = gain[c] * x[c] / r;
    return y;
}

// y = gain * x / rms(x): the gradient of x; gain's accumulates.
Doubles normBackward(const Doubles& x, const Doubles& gain, double r, const Doubles& grad_y, Doubles& grad_gain) {
    double n = double(x.size()), along = 0;
    for (size_t c = 0; c < x.size(); ++c) along += grad_y[c] * gain[c] * x[c];
    Doubles grad_x(x.size());
    for (size_t c = 0; c < x.size(); ++c) {
        grad_gain[c] += grad_y[c] * x[c] / r;
        grad_x[c] = gain[c] * grad_y[c] / r - x[c] * along / (n * r * r * r);
    }
    return grad_x;
}

// Tokens of a convolution that looks back: f(t, c, j) for token t, channel c, tap j at token t - j.
template <class F>
void forTaps(size_t tokens, const LmShape& s, F f) {
    for (size_t t = 0; t < tokens; ++t)
        for (size_t c = 0; c < s.model_dim; ++c)
            for (size_t j = 0; j < s.kernel && j <= t; ++j)
                f(t * s.model_dim + c, (t - j) * s.model_dim + c, c * s.kernel + j);
}

LmLayerTape layerForward(const OracleLmLayer& layer, const LmShape& s, const Doubles& in) {
    LmLayerTape tape{in, {}, {}, {}, in, {}};
    size_t D = s.model_dim, tokens = in.size() / D;
    for (size_t t = 0; t < tokens; ++t) {
        tape.rms_conv.push_back(rms(rowOf(in, t, D)));
        append(tape.normed, normed(rowOf(in, t, D), layer.norm_conv, tape.rms_conv[t]));
    }
    forTaps(tokens, s,
            [&](size_t to, size_t from, size_t tap) { tape.after_conv[to] += layer.conv[tap] * tape.normed[from]; });
    Doubles x;
    for (size_t t = 0; t < tokens; ++t) {
        tape.rms_moe.push_back(rms(rowOf(tape.after_conv, t, D)));
        append(x, normed(rowOf(tape.after_conv, t, D), layer.norm_moe, tape.rms_moe[t]));
    }
    tape.moe = oracleForward(layer.moe, x);
    return tape;
}

// The gradient of the layer's input from its output's.
Doubles layerBackward(const OracleLmLayer& layer, const LmShape& s, const LmLayerTape& tape, const Doubles& grad_out,
                      OracleLmLayer& grad) {
    size_t D = s.model_dim, tokens = tape.in.size() / D;
    OracleGradients moe = oracleBackward(layer.moe, tape.moe, grad_out);
    auto from = parametersOf(moe.parameters), to = parametersOf(grad.moe);
    for (size_t p = 0; p < to.size(); ++p) addToRow(*to[p].second, 0, *from[p].second);
    Doubles grad_u = grad_out, grad_normed(grad_out.size());
    for (size_t t = 0; t < tokens; ++t)
        addToRow(grad_u, t,
                 normBackward(rowOf(tape.after_conv, t, D), layer.norm_moe, tape.rms_moe[t], rowOf(moe.x, t, D),
                              grad.norm_moe));
    forTaps(tokens, s, [&](size_t to_at, size_t from_at, size_t tap) {
        grad.conv[tap] += grad_u[to_at] * tape.normed[from_at];
        grad_normed[from_at] += grad_u[to_at] * layer.conv[tap];
    });
    Doubles grad_in = grad_u;
    for (size_t t = 0; t < tokens; ++t)
        addToRow(grad_in, t,
                 normBackward(rowOf(tape.in, t, D), layer.norm_conv, tape.rms_conv[t], rowOf(grad_normed, t, D),
                              grad.norm_conv));
    return grad_in;
}

// The head's part: gradients of final_x; the embedding's accumulates.
Doubles headBackward(const OracleLm& lm, const LmForward& f, double& loss, OracleLm& grad) {
    size_t D = lm.shape.model_dim, V = lm.shape.vocab, last = f.tokens.size() - 1;
    Doubles grad_x(f.final_x.size()), row;
    for (size_t t = 0; t < last; ++t) {
        loss += oracleCrossEntropy(rowOf(f.logits, t, V), f.tokens[t + 1], row) / double(last);
        for (size_t i = 0; i < V * D; ++i) {
            double g = row[i / D] / double(last);
            grad.embedding[i] += g * f.final_x[t * D + i % D];
            grad_x[t * D + i % D] += g * lm.embedding[i];
        }
    }
    return grad_x;
}

uint32_t best(const Doubles& logits, double& margin) {
    size_t at = size_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
    for (size_t v = 0; v < logits.size(); ++v)
        if (v != at) margin = std::min(margin, logits[at] - logits[v]);
    return uint32_t(at);
}

uint32_t sample(const Doubles& logits, double temperature, OracleRandom& random, double& margin) {
    double m = *std::max_element(logits.begin(), logits.end()) / temperature, sum = 0;
    Doubles p;
    for (double l : logits) sum += p.emplace_back(std::exp(l / temperature - m));
    double left = random.uniform() * sum;
    for (size_t v = 0; v < p.size(); ++v) {
        left -= p[v];
        margin = std::min(margin, std::fabs(left));
        if (left <= 0) return uint32_t(v);
    }
    return uint32_t(p.size() - 1);
}

}  // namespace

OracleLm zeroLm(const LmShape& s) {
    OracleLmLayer layer{Doubles(size_t{s.model_dim} * s.kernel), Doubles(s.model_dim), Doubles(s.model_dim),
                        s.moe().zeros()};
    return {s, Doubles(size_t{s.vocab} * s.model_dim), std::vector<OracleLmLayer>(s.layers, layer)};
}

OracleLm initLm(const LmShape& s, uint32_t seed) {
    OracleLm lm = zeroLm(s);
    OracleRandom random(seed);
    for (double& w : lm.embedding) w = random.normal(0.02);
    for (uint32_t l = 0; l < s.layers; ++l) {
        OracleLmLayer& layer = lm.layers[l];
        for (size_t c = 0; c < s.model_dim; ++c) layer.conv[c * s.kernel] = 1;
        std::fill(layer.norm_conv.begin(), layer.norm_conv.end(), 1.0);
        std::fill(layer.norm_moe.begin(), layer.norm_moe.end(), 1.0);
        initMoe(layer.moe, (seed == 0 ? 1 : seed) + 1 + l);
    }
    return lm;
}

std::vector<std::pair<std::string, Doubles*>> parametersOf(OracleLm& lm) {
    std::vector<std::pair<std::string, Doubles*>> list{{"token_embedding.weight", &lm.embedding}};
    for (size_t l = 0; l < lm.layers.size(); ++l) {
        std::string prefix = "layers." + std::to_string(l) + ".";
        list.emplace_back(prefix + "conv.weight", &lm.layers[l].conv);
        list.emplace_back(prefix + "norm_conv.weight", &lm.layers[l].norm_conv);
        list.emplace_back(prefix + "norm_moe.weight", &lm.layers[l].norm_moe);
        for (auto& [name, tensor] : parametersOf(lm.layers[l].moe)) list.emplace_back(prefix + "moe." + name, tensor);
    }
    return list;
}

Doubles flatten(OracleLm& lm) {
    Doubles flat;
    for (auto& [name, tensor] : parametersOf(lm)) append(flat, *tensor);
    return flat;
}

void unflatten(const Doubles& flat, OracleLm& lm) {
    size_t at = 0;
    for (auto& [name, tensor] : parametersOf(lm)) {
        assert(at + tensor->size() <= flat.size());
        std::copy_n(flat.begin() + std::ptrdiff_t(at), tensor->size(), tensor->begin());
        at += tensor->size();
    }
    assert(at == flat.size());
}

LmForward lmForward(const OracleLm& lm, const std::vector<uint32_t>& tokens) {
    LmForward f{tokens, {}, {}, {}};
    Doubles x;
    for (uint32_t token : tokens) append(x, rowOf(lm.embedding, token, lm.shape.model_dim));
    for (const OracleLmLayer& layer : lm.layers) {
        f.layers.push_back(layerForward(layer, lm.shape, x));
        const LmLayerTape& tape = f.layers.back();
        x = tape.after_conv;
        addToRow(x, 0, tape.moe.output);
        f.smallest_margin = std::min(f.smallest_margin, tape.moe.routes.smallest_margin);
        f.smallest_corner = std::min(f.smallest_corner, tape.moe.smallest_corner);
    }
    f.final_x = x;
    for (size_t t = 0; t < tokens.size(); ++t)
        append(f.logits, referenceProduct(lm.embedding, {}, rowOf(x, t, lm.shape.model_dim), lm.shape.vocab));
    return f;
}

double oracleCrossEntropy(const Doubles& logits, uint32_t target, Doubles& grad) {
    double m = *std::max_element(logits.begin(), logits.end()), sum = 0;
    for (double l : logits) sum += std::exp(l - m);
    grad = referenceSoftmax(logits);
    grad[target] -= 1;
    return std::log(sum) + m - logits[target];
}

double lmBackward(const OracleLm& lm, const std::vector<uint32_t>& tokens, OracleLm& grad) {
    if (tokens.size() < 2) return 0;
    LmForward f = lmForward(lm, tokens);
    double loss = 0;
    Doubles grad_x = headBackward(lm, f, loss, grad);
    for (size_t l = lm.layers.size(); l-- > 0;)
        grad_x = layerBackward(lm.layers[l], lm.shape, f.layers[l], grad_x, grad.layers[l]);
    for (size_t t = 0; t < tokens.size(); ++t)
        addToRow(grad.embedding, tokens[t], rowOf(grad_x, t, lm.shape.model_dim));
    return loss;
}

Doubles lmTrain(OracleLm& lm, OracleAdamw& optimizer, const std::vector<std::vector<uint32_t>>& sequences,
                const LmTrainOptions& options) {
    Doubles history;
    for (uint32_t epoch = 0; epoch < options.epochs; ++epoch) {
        OracleLm grad = zeroLm(lm.shape);
        double total = 0;
        uint32_t count = 0, pending = 0;
        auto flush = [&] {
            if (pending == 0) return;
            std::vector<Doubles*> weights, grads;
            for (auto& [name, tensor] : parametersOf(lm)) weights.push_back(tensor);
            for (auto& [name, tensor] : parametersOf(grad)) {
                for (double& g : *tensor) g /= pending;
                grads.push_back(tensor);
            }
            optimizer.step(weights, grads);
            grad = zeroLm(lm.shape);
            pending = 0;
        };
        for (const auto& sequence : sequences) {
            if (sequence.size() < 2) continue;
            total += lmBackward(lm, sequence, grad);
            ++count;
            if (++pending >= options.accumulate) flush();
        }
        flush();
        history.push_back(count == 0 ? 0 : total / count);
    }
    return history;
}

Generated lmGenerate(const OracleLm& lm, std::vector<uint32_t> prompt, const GenerateOptions& options) {
    Generated out;
    OracleRandom random(options.seed);
    size_t V = lm.shape.vocab;
    for (uint32_t n = 0; n < options.count; ++n) {
        auto tokens = prompt.empty() ? std::vector<uint32_t>{0} : prompt;
        Doubles logits = rowOf(lmForward(lm, tokens).logits, tokens.size() - 1, V);
        uint32_t id = options.temperature > 0 ? sample(logits, options.temperature, random, out.smallest_margin)
                                              : best(logits, out.smallest_margin);
        out.ids.push_back(id);
        prompt.push_back(id);
        if (int64_t(id) == options.stop) break;
    }
    return out;
}

}  // namespace test
