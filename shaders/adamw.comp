#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/adamw.h"
// adamw: one step of AdamW on weights of any kind, by the formulas of adamw.h.
//   in      grads [count]; touched [ceil(count/page_words)], if c_skip: elements of a page whose word is 0 keep all they have
//   in/out  weights, first, second [count]
// One thread an element. All values follow the state rule, second is never negative, epsilon is 2^-50 or more. A weight
// that moves is stored under the operand rule, biases included: below 2^-40 it is +0. A weight without gradient, moments
// and decay does not move. A square of a gradient below 2^-100 counts as none: such a weight's step is its mean over
// epsilon. An element is counted if its weight or one of its moments is not finite, or not below 2^63.
KERNEL(Adamw)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    if (c_skip != 0u && p.touched.at[i / p.page_words] == 0u) return;
    float g = adamw_gradient(p.grads.at[i], p.grad_scale, p.clip);
    float m = adamw_first(p.first.at[i], g, p.beta1, p.one_minus_beta1);
    float v = adamw_second(p.second.at[i], g, p.beta2, p.one_minus_beta2);
    float step = adamw_step(m, v, p.correction1, p.correction2, p.epsilon);
    float w = adamw_weight(p.weights.at[i], step, p.learning_rate, p.weight_decay);
    if (out_of_range(m) || out_of_range(v) || out_of_range(w)) flag(p.status, i);
    p.first.at[i] = m;
    p.second.at[i] = v;
    p.weights.at[i] = w;
}
