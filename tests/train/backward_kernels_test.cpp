// The gradients of activation, combination and dispatch against central differences of their forward formulas in
// double; and their SIMD forms on every instruction set against the scalar twins.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <random>

#include "engine/cases/scene.h"
#include "engine/cpu/twins.h"
#include "shaders/exact_math.h"
#include "tests/all_groups.h"
#include "tests/kernels/simd_cases.h"
#include "tests/train/differences.h"

using namespace vkmoe;

namespace {

// Numbers of order 1 that an f32 holds, once as f32 and once as double.
struct Numbers {
    std::vector<float> single;
    std::vector<double> exact;
    Numbers(size_t count, std::mt19937& random) {
        for (size_t i = 0; i < count; ++i) single.push_back(float(int32_t(random())) * 0x1p-30f);
        exact.assign(single.begin(), single.end());
    }
    F32 pointer() { return {single.data()}; }
};

double dot(const std::vector<double>& a, size_t a0, const std::vector<double>& b, size_t b0, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += a[a0 + i] * b[b0 + i];
    return sum;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// A layer between its experts: who computes what, all of it random.
struct Middle {
    uint32_t T, K, D;
    std::mt19937 random;
    std::vector<uint32_t> slot_of = std::vector<uint32_t>(size_t{T} * K);
    Numbers y{size_t{T} * K * D, random}, gates{size_t{T} * K, random}, shared_y{size_t{T} * D, random},
        shared_logits{T, random}, grad{size_t{T} * D, random};

    Middle(uint32_t tokens, uint32_t top_k, uint32_t model_dim, uint32_t seed)
        : T(tokens), K(top_k), D(model_dim), random(seed) {
        for (uint32_t a = 0; a < T * K; ++a) slot_of[a] = a;
        std::shuffle(slot_of.begin(), slot_of.end(), random);
        for (uint32_t& slot : slot_of)
            if (random() % 5 == 0) slot = kAbsent;
    }

    // Sum over tokens of grad times the combined output.
    double loss() const {
        double sum = 0;
        for (uint32_t t = 0; t < T; ++t) {
            for (uint32_t a = t * K; a < (t + 1) * K; ++a)
                if (slot_of[a] != kAbsent)
                    sum += gates.exact[a] * dot(grad.exact, size_t{t} * D, y.exact, size_t{slot_of[a]} * D, D);
            sum += sigmoid(shared_logits.exact[t]) * dot(grad.exact, size_t{t} * D, shared_y.exact, size_t{t} * D, D);
        }
        return sum;
    }
};

struct Size {
    uint32_t T, K, D;
};
constexpr Size kSizes[] = {{1, 1, 1}, {3, 2, 31}, {2, 4, 32}, {4, 3, 33}, {2, 1, 101}};

}  // namespace

TEST_CASE("gradients of experts' outputs and of gates are derivatives", "[backward]") {
    for (const Size& s : kSizes) {
        Middle m(s.T, s.K, s.D, s.D);
        INFO(fmt::format("T{} K{} D{} seed {}", s.T, s.K, s.D, s.D));
        std::vector<float> shared_gates, grad_y(m.y.single.size()), grad_shared_y(m.shared_y.single.size());
        std::vector<float> grad_gates(m.gates.single.size()), grad_logits(s.T);
        for (double logit : m.shared_logits.exact) shared_gates.push_back(float(sigmoid(logit)));
        uint32_t status[2] = {};
        Constants c{.operand_bits = 24, .shared = kSharedFirst, .shared_gate = 1};
        cpu::combine_backward({.grad_out = m.grad.pointer(),
                               .slot_of = {m.slot_of.data()},
                               .gates = m.gates.pointer(),
                               .shared_gates = {shared_gates.data()},
                               .grad_y = {grad_y.data()},
                               .grad_shared_y = {grad_shared_y.data()},
                               .status = {status},
                               .tokens = s.T,
                               .model_dim = s.D,
                               .top_k = s.K},
                              c, test::kAllGroups);
        cpu::gate_backward({.grad_out = m.grad.pointer(),
                            .y = m.y.pointer(),
                            .slot_of = {m.slot_of.data()},
                            .shared_y = m.shared_y.pointer(),
                            .shared_gates = {shared_gates.data()},
                            .grad_gates = {grad_gates.data()},
                            .grad_shared_logits = {grad_logits.data()},
                            .status = {status},
                            .tokens = s.T,
                            .model_dim = s.D,
                            .top_k = s.K},
                           c, test::kAllGroups);
        auto loss = [&] { return m.loss(); };
        CHECK(status[0] == 0);
        CHECK(test::worstOf(grad_y, test::gradient(m.y.exact, loss)) < 1e-6);  // products below 4, rounded to 24 bits
        CHECK(test::worstOf(grad_shared_y, test::gradient(m.shared_y.exact, loss)) < 1e-6);
        CHECK(test::worstOf(grad_gates, test::gradient(m.gates.exact, loss)) < 1e-5);  // sums of up to 101 products
        CHECK(test::worstOf(grad_logits, test::gradient(m.shared_logits.exact, loss)) < 1e-5);
    }
}

TEST_CASE("gradients of a layer's input and of its shared gate are derivatives", "[backward]") {
    for (const Size& s : kSizes) {
        Middle m(s.T, s.K, s.D, s.D + 1);
        INFO(fmt::format("T{} K{} D{} seed {}", s.T, s.K, s.D, s.D + 1));
        const size_t inputs = size_t{s.T} * s.D;
        Numbers x(inputs, m.random), router(inputs, m.random), weight(s.D, m.random), start(s.D, m.random);
        std::vector<float> grad_in(inputs), grad_weight = start.single;
        uint32_t status[2] = {};
        cpu::dispatch_backward({.grad_x = m.y.pointer(),
                                .slot_of = {m.slot_of.data()},
                                .grad_shared_x = m.shared_y.pointer(),
                                .grad_shared_logits = m.shared_logits.pointer(),
                                .shared_router = weight.pointer(),
                                .grad_router_x = router.pointer(),
                                .grad_in = {grad_in.data()},
                                .status = {status},
                                .tokens = s.T,
                                .model_dim = s.D,
                                .top_k = s.K},
                               {.shared = kSharedFirst, .shared_gate = 1}, test::kAllGroups);
        cpu::shared_gate_backward({.grad_shared_logits = m.shared_logits.pointer(),
                                   .x = x.pointer(),
                                   .grad = {grad_weight.data()},
                                   .status = {status},
                                   .tokens = s.T,
                                   .model_dim = s.D},
                                  {}, test::kAllGroups);
        // x goes to every slot of its token, to the shared expert, to its gate and to the router, each linear.
        auto loss = [&] {
            double sum = dot(x.exact, 0, m.shared_y.exact, 0, inputs) + dot(x.exact, 0, router.exact, 0, inputs);
            for (uint32_t t = 0; t < s.T; ++t) {
                sum += m.shared_logits.exact[t] * dot(x.exact, size_t{t} * s.D, weight.exact, 0, s.D);
                for (uint32_t a = t * s.K; a < (t + 1) * s.K; ++a)
                    if (m.slot_of[a] != kAbsent)
                        sum += dot(x.exact, size_t{t} * s.D, m.y.exact, size_t{m.slot_of[a]} * s.D, s.D);
            }
            return sum;
        };
        CHECK(status[0] == 0);
        CHECK(test::worstOf(grad_in, test::gradient(x.exact, loss)) < 5e-6);
        auto expected = test::gradient(weight.exact, loss);
        for (uint32_t i = 0; i < s.D; ++i) expected[i] += start.exact[i];
        CHECK(test::worstOf(grad_weight, expected) < 5e-6);
    }
}

namespace {

double hiddenOf(uint32_t activation, double gate, double up, double limit, double alpha) {
    if (activation == kRelu) return std::max(up, 0.0);
    if (activation == kSiluGlu) return gate * sigmoid(gate) * up;
    if (activation == kGeluGlu)
        return 0.5 * gate * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) * up;
    double g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
    return g * sigmoid(alpha * g) * (u + 1);
}

// Away from where a clamp or relu bends, by more than the steps of a difference.
bool isSmooth(uint32_t activation, double gate, double up, double limit) {
    if (activation == kRelu) return std::abs(up) > 0.01;
    return activation != kClampedSwiglu || (std::abs(gate - limit) > 0.01 && std::abs(std::abs(up) - limit) > 0.01);
}

}  // namespace

// Rounding: of sigmoid (3 ulp), of 1 - t^2 near 1 times x/2 * u' (up to 20 at x = 5), of a few products.
TEST_CASE("gradients of activations are derivatives over a sweep of values", "[backward]") {
    const float limit = 7, alpha = 1.702f;
    for (uint32_t activation : {kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu}) {
        double worst = 0, worst_gate = 0;
        for (int i = -1300; i <= 1300; ++i)
            for (float up : {-9.0f, -1.25f, -0.5f, 0.03125f, 1.0f, 6.5f, 11.0f}) {
                float gate = float(i) * 0.0123f, grad = 0.75f, by_gate = 0, by_up = 0;
                if (activation == kRelu) up = gate;
                if (!isSmooth(activation, gate, up, limit)) continue;
                uint32_t status[2] = {};
                cpu::activation_backward({.gate_total = {&gate},
                                          .up_total = {&up},
                                          .grad_hidden = {&grad},
                                          .grad_gate = {&by_gate},
                                          .grad_up = {&by_up},
                                          .status = {status},
                                          .count = 1,
                                          .swiglu_limit = limit,
                                          .swiglu_alpha = alpha},
                                         {.operand_bits = 24, .activation = activation}, {0, 1});
                double g = gate, u = up;
                auto hidden = [&] { return 0.75 * hiddenOf(activation, g, u, limit, alpha); };
                double scale = 1 + std::abs(u), error = std::abs(by_gate - test::derivative(g, hidden)) / scale;
                error = std::max(error, std::abs(by_up - test::derivative(u, hidden)) / (1 + std::abs(g)));
                if (!(error <= worst)) worst = error, worst_gate = gate;
                CHECK(status[0] == 0);
            }
        INFO(fmt::format("activation {}, worst error {} at gate {}", activation, worst, worst_gate));
        CHECK(worst < 3e-6);
    }
}

TEST_CASE("the edges of a clamp have the slope of inside, and relu's is 0 at 0", "[backward]") {
    float gate[] = {7, 7.0000005f, 1, 1, 1}, up[] = {2, 2, 7, -7, 7.0000005f}, grad[] = {1, 1, 1, 1, 1}, by_gate[5],
          by_up[5];
    float zero[] = {0, -0.0f, 1e-30f}, relu[3];
    uint32_t status[2] = {};
    ActivationBackward p{.gate_total = {gate},
                         .up_total = {up},
                         .grad_hidden = {grad},
                         .grad_gate = {by_gate},
                         .grad_up = {by_up},
                         .status = {status},
                         .count = 5,
                         .swiglu_limit = 7,
                         .swiglu_alpha = 1.702f};
    cpu::activation_backward(p, {.operand_bits = 24, .activation = kClampedSwiglu}, {0, 1});
    CHECK((by_gate[0] != 0 && by_gate[1] == 0));
    CHECK((by_up[2] != 0 && by_up[3] != 0 && by_up[4] == 0));
    p = {.up_total = {zero}, .grad_hidden = {grad}, .grad_up = {relu}, .status = {status}, .count = 3};
    cpu::activation_backward(p, {.operand_bits = 24, .activation = kRelu}, {0, 1});
    CHECK((relu[0] == 0 && relu[1] == 0 && relu[2] == 1));
}

TEST_CASE("squared error and its gradient", "[backward]") {
    std::mt19937 random(3);
    for (uint32_t D : {1u, 31u, 32u, 33u, 97u}) {
        Numbers out(2 * D, random), target(2 * D, random);
        std::vector<float> grad(2 * D), losses(2);
        uint32_t status[2] = {};
        cpu::squared_error({.out_ = out.pointer(),
                            .target = target.pointer(),
                            .grad_out = {grad.data()},
                            .losses = {losses.data()},
                            .status = {status},
                            .tokens = 2,
                            .model_dim = D},
                           {}, test::kAllGroups);
        auto loss = [&](uint32_t t) {
            double sum = 0;
            for (uint32_t i = t * D; i < (t + 1) * D; ++i) sum += std::pow(out.exact[i] - target.exact[i], 2) / 2;
            return sum;
        };
        INFO(fmt::format("D{} seed 3", D));
        CHECK(test::worstOf(losses, {loss(0), loss(1)}) < 1e-6 * (1 + loss(0) + loss(1)));
        CHECK(test::worstOf(grad, test::gradient(out.exact, [&] { return loss(0) + loss(1); })) < 1e-6);
        CHECK(status[0] == 0);
    }
}

TEST_CASE("counts of tokens add up over chunks", "[backward]") {
    uint32_t offsets[] = {0, 3, 3, 10}, counts[] = {1, 2, 3};
    for (int chunk = 0; chunk < 2; ++chunk)
        cpu::count_tokens({.offsets = {offsets}, .counts = {counts}, .experts = 3}, {}, test::kAllGroups);
    CHECK((counts[0] == 7 && counts[1] == 2 && counts[2] == 17));
}

TEST_CASE("gradients that may not be stored are counted by place, scalar and SIMD alike", "[backward]") {
    constexpr uint32_t kWidth = 150;  // of two tokens
    for (bool vectors : {false, true}) {
        std::mt19937 random(5);
        Numbers grad(2 * kWidth, random), y(2 * kWidth, random), gates(2, random);
        uint32_t slot_of[] = {1, 0}, combined[2] = {}, gated[2] = {}, activated[2] = {};
        std::vector<float> a(2 * kWidth), b(2 * kWidth);
        grad.single[37] = uintBitsToFloat(0x7fc00000u);
        grad.single[kWidth + 149] = uintBitsToFloat(0x5f000000u);  // 2^63
        gates.single = {1, 1};
        (vectors ? simd::combine_backward : cpu::combine_backward)({.grad_out = grad.pointer(),
                                                                    .slot_of = {slot_of},
                                                                    .gates = gates.pointer(),
                                                                    .grad_y = {a.data()},
                                                                    .status = {combined},
                                                                    .tokens = 2,
                                                                    .model_dim = kWidth,
                                                                    .top_k = 1},
                                                                   {.operand_bits = 24}, test::kAllGroups);
        (vectors ? simd::gate_backward : cpu::gate_backward)({.grad_out = grad.pointer(),
                                                              .y = y.pointer(),
                                                              .slot_of = {slot_of},
                                                              .grad_gates = {a.data()},
                                                              .status = {gated},
                                                              .tokens = 2,
                                                              .model_dim = kWidth,
                                                              .top_k = 1},
                                                             {}, test::kAllGroups);
        (vectors ? simd::activation_backward : cpu::activation_backward)({.gate_total = y.pointer(),
                                                                          .up_total = y.pointer(),
                                                                          .grad_hidden = grad.pointer(),
                                                                          .grad_gate = {a.data()},
                                                                          .grad_up = {b.data()},
                                                                          .status = {activated},
                                                                          .count = 2 * kWidth},
                                                                         {.operand_bits = 16, .activation = kSiluGlu},
                                                                         test::kAllGroups);
        INFO((vectors ? "SIMD" : "scalar"));
        CHECK((combined[0] == 2 && ~combined[1] == 37));
        CHECK((gated[0] >= 1 && ~gated[1] == 0));
        CHECK((activated[0] >= 2 && ~activated[1] == 37));
    }
}

TEST_CASE("gradients have the scalar bits on every instruction set", "[backward][simd]") {
    const Kernels& k = kernels();
    CHECK(test::differenceOnAnyTarget({&k.combine_backward, &k.gate_backward, &k.activation_backward,
                                       &k.dispatch_backward, &k.shared_gate_backward}) == "");
}
