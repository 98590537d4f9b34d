#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/random.h"
// add_noise: logits[t, e] += noise_std * u, u uniform in [-1, 1) by (seed, first_token + t, e).
//   in/out logits [tokens, experts]  (state rule)
// One thread a logit. Source: entrenar's noisy top-k router (uniform, whatever its documentation says).
KERNEL(AddNoise)

void main() {
    uint i = thread_index();
    if (i >= p.tokens * p.experts) return;
    float u = random_signed(p.seed, p.first_token + i / p.experts, i % p.experts);
    p.logits.at[i] = state_rule(checked(p.logits.at[i] + u * p.noise_std, p.status, i));
}
