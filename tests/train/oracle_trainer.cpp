#include "tests/train/oracle_trainer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace test {
namespace {

using vkmoe::Description;

std::vector<Doubles*> tensorsOf(ReferenceLayer& layer) {
    std::vector<Doubles*> tensors;
    for (auto& [name, tensor] : parametersOf(layer)) tensors.push_back(tensor);
    return tensors;
}

// One batch: its loss, its balance loss, and an optimiser step.
EpochResult trainBatch(ReferenceLayer& layer, OracleAdamw& optimizer, const Doubles& x, const Doubles& target,
                       const LayerTrainOptions& options) {
    const Description& d = layer.description;
    OracleForward forward = oracleForward(layer, x);
    double tokens = double(forward.tokens(d));
    EpochResult result;
    Doubles grad_out;
    result.loss = oracleSquaredError(forward.output, target, grad_out);
    RouterLosses losses{.fraction = oracleFractions(d, forward.routes)};
    losses.balance_scale = options.aux_weight * d.experts;
    if (options.aux_scale == AuxScale::reference) losses.balance_scale /= tokens;
    OracleGradients grads = oracleBackward(layer, forward, grad_out, losses);
    auto tensors = tensorsOf(grads.parameters);
    for (Doubles* tensor : tensors)
        for (double& g : *tensor) g /= tokens;
    optimizer.step(tensorsOf(layer), tensors);
    result.aux_loss = oracleBalanceLoss(losses.fraction, forward.logits);
    return result;
}

Doubles rowsOf(const Doubles& matrix, size_t first, size_t last, size_t width) {
    return {matrix.begin() + std::ptrdiff_t(first * width), matrix.begin() + std::ptrdiff_t(last * width)};
}

ReferenceExpert zeroExpert(size_t model_dim, size_t hidden_dim) {
    ReferenceExpert e;
    e.up = e.down = Doubles(model_dim * hidden_dim);
    e.up_bias = Doubles(hidden_dim);
    e.down_bias = Doubles(model_dim);
    return e;
}

}  // namespace

void OracleAdamw::step(const std::vector<Doubles*>& parameters, const std::vector<Doubles*>& gradients) {
    assert(parameters.size() == gradients.size());
    if (first_.empty())
        for (const Doubles* p : parameters) {
            first_.emplace_back(p->size());
            second_.emplace_back(p->size());
        }
    ++steps_;
    power1_ *= options_.beta1;
    power2_ *= options_.beta2;
    for (size_t t = 0; t < parameters.size(); ++t)
        for (size_t i = 0; i < parameters[t]->size(); ++i) {
            double g = (*gradients[t])[i], &w = (*parameters[t])[i], &m = first_[t][i], &v = second_[t][i];
            m = options_.beta1 * m + (1 - options_.beta1) * g;
            v = options_.beta2 * v + (1 - options_.beta2) * g * g;
            double step = m / (1 - power1_) / (std::sqrt(v / (1 - power2_)) + options_.eps);
            w -= options_.lr * (step + options_.weight_decay * w);
        }
}

double oracleSquaredError(const Doubles& output, const Doubles& target, Doubles& grad) {
    assert(output.size() == target.size());
    double loss = 0;
    grad.clear();
    for (size_t i = 0; i < output.size(); ++i) {
        grad.push_back(output[i] - target[i]);
        loss += 0.5 * grad[i] * grad[i];
    }
    return loss;
}

std::vector<EpochResult> oracleTrain(ReferenceLayer& layer, OracleAdamw& optimizer, const Doubles& inputs,
                                     const Doubles& targets, const LayerTrainOptions& options) {
    size_t width = layer.description.model_dim, samples = inputs.size() / width;
    size_t batch = options.batch == 0 ? samples : options.batch;
    std::vector<EpochResult> history(options.epochs);
    for (EpochResult& epoch : history) {
        for (size_t first = 0; first < samples; first += batch) {
            size_t last = std::min(first + batch, samples);
            EpochResult one = trainBatch(layer, optimizer, rowsOf(inputs, first, last, width),
                                         rowsOf(targets, first, last, width), options);
            epoch.loss += one.loss;
            epoch.aux_loss = one.aux_loss;
        }
        epoch.loss /= double(std::max<size_t>(samples, 1));
    }
    return history;
}

Description MoeShape::description() const {
    return {.model_dim = model_dim,
            .hidden_dim = hidden_dim,
            .experts = experts,
            .top_k = top_k,
            .score = vkmoe::Score::softmax_selected,
            .activation = vkmoe::Activation::relu,
            .up_bias = true,
            .down_bias = true,
            .shared = vkmoe::Shared::plain,
            .shared_order = vkmoe::SharedOrder::first,
            .shared_dim = hidden_dim,
            .shared_up_bias = true,
            .shared_down_bias = true};
}

ReferenceLayer MoeShape::zeros() const {
    ReferenceLayer layer;
    layer.description = description();
    layer.router = Doubles(size_t{experts} * model_dim);
    layer.shared = zeroExpert(model_dim, hidden_dim);
    layer.experts.assign(experts, layer.shared);
    return layer;
}

uint64_t MoeShape::parameters() const {
    uint64_t D = model_dim, H = hidden_dim, E = experts;
    return E * D + (E + 1) * (2 * H * D + H + D);
}

Doubles flatten(ReferenceLayer& layer) {
    Doubles flat;
    for (const Doubles* tensor : tensorsOf(layer)) flat.insert(flat.end(), tensor->begin(), tensor->end());
    return flat;
}

void unflatten(const Doubles& flat, ReferenceLayer& layer, size_t& position) {
    for (Doubles* tensor : tensorsOf(layer)) {
        assert(position + tensor->size() <= flat.size());
        std::copy_n(flat.begin() + std::ptrdiff_t(position), tensor->size(), tensor->begin());
        position += tensor->size();
    }
}

void initMoe(ReferenceLayer& layer, uint32_t seed) {
    OracleRandom random(seed);
    auto fill = [&](Doubles& tensor, double deviation) {
        for (double& w : tensor) w = random.normal(deviation);
    };
    double wide = std::sqrt(2.0 / layer.description.model_dim);
    fill(layer.router, 0.02);
    fill(layer.shared.up, wide);
    fill(layer.shared.down, 0.02);
    for (ReferenceExpert& e : layer.experts) {
        fill(e.up, wide);
        fill(e.down, 0.02);
    }
}

double OracleRandom::uniform() {
    state_ = 1664525u * state_ + 1013904223u;
    return state_ * 0x1p-32;
}

double OracleRandom::normal(double deviation) {
    double u1 = std::max(uniform(), 1e-12), u2 = uniform();
    return double(float(deviation * std::sqrt(-2 * std::log(u1)) * std::cos(2 * std::numbers::pi * u2)));
}

}  // namespace test
