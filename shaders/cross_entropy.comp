#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/language.h"
// cross_entropy: losses[t] = log(sum over v of exp(logits[t, v])) - logits[t, targets[t]], and if c_gradients
// grad_logits[t, v] = weights[t] * (exp(logits[t, v]) / sum - (v is the target)).
//   in   logits [tokens, vocab]; targets [tokens], below vocab, or kAbsent: loss and gradients are 0; weights [tokens]
//   out  losses [tokens]  (state rule); grad_logits [tokens, vocab] operands; may be logits
// One workgroup a token. Exponentials are relative to the largest logit, which has no order; their sum is in order R32 over
// v. Gradients are bounded by the weight: loss and weight are checked, and counted by the target's index in logits. No
// thread loops more than 32,768 times up to a vocabulary of 400,000; tokens * vocab stays below 2^32.
KERNEL(CrossEntropy)
#include "shaders/row_sum.glsl"

shared uint keys[kWorkgroup];
uint row;
float largest;

float term(uint v) { return exact_exp(p.logits.at[row + v] - largest); }

// Compared as integers: -0 and +0 are one, and the order of lanes does not show.
float row_largest() {
    uint key = 0u;
    for (uint v = lane_index(); v < p.vocab; v += kWorkgroup) key = max(key, order_key(p.logits.at[row + v]));
    keys[lane_index()] = key;
    memoryBarrierShared();
    barrier();
    for (uint i = 0u; i < kWorkgroup; ++i) key = max(key, keys[i]);
    return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key);
}

void main() {
    uint token = group_index();
    if (token >= p.tokens) return;  // the whole workgroup
    row = token * p.vocab;
    uint target = p.targets.at[token];
    if (target == kAbsent) {
        if (lane_index() == 0u) p.losses.at[token] = uintBitsToFloat(0u);
        for (uint v = lane_index(); c_gradients != 0u && v < p.vocab; v += kWorkgroup)
            p.grad_logits.at[row + v] = uintBitsToFloat(0u);
        return;
    }
    largest = row_largest();
    float logit = p.logits.at[row + target], weight = p.weights.at[token];
    float sum = row_sum(p.vocab);
    if (lane_index() == 0u) {
        checked(weight, p.status, row + target);
        p.losses.at[token] = state_rule(checked(cross_entropy_loss(sum, largest, logit), p.status, row + target));
    }
    for (uint v = lane_index(); c_gradients != 0u && v < p.vocab; v += kWorkgroup)
        p.grad_logits.at[row + v] =
            logit_gradient(probability(p.logits.at[row + v], largest, sum), v == target, weight);
}
