// Specialization constants: the code shape of a kernel, fixed when its pipeline is built. One id, one meaning, in every kernel.
//
// A kernel reads c_name in GLSL and constants.name in its CPU twin; a constant it does not use is ignored.
#ifndef VKMOE_CONSTANTS_H
#define VKMOE_CONSTANTS_H

#define VKMOE_CONSTANTS(X)                                                                              \
    X(0, weight_format)   /* of the source or of the packed weights: kF32, kF16, kBf16, kMxfp4 */       \
    X(1, operand_bits)    /* significand bits an activation is rounded to, 24 = not rounded; 0: state rule */ \
    X(2, fused)           /* 1: fused multiply-add (rounded precision only: products are exact) */      \
    X(3, activation)      /* kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu */                               \
    X(4, bias)            /* bits: kBias (of router, up or down), kGateBias */                          \
    X(5, dense)           /* 1: every row goes to page `dense_page` (a shared expert) */                \
    X(6, score)           /* kSoftmax, kSoftmaxSelected, kSigmoid */                                    \
    X(7, renormalize)     /* 1: gates are divided by their sum */                                       \
    X(8, selection_bias)  /* 1: a bias that changes who is chosen, not the gate */                      \
    X(9, scaled)          /* 1: gates are multiplied by routed_scale */                                 \
    X(10, probabilities)  /* 1: also write the softmax over all experts */                              \
    X(11, lanes)          /* invocations that share one token: 8, 16, 32 or 64; lanes forms: a subgroup, 8 to 64 */ \
    X(12, shared)         /* order of the shared expert in combine: kSharedNone, kSharedFirst, kSharedLast */ \
    X(13, widen)          /* pack_panels: 1: the panels are f32 whatever the source (routers) */           \
    X(14, nibbles)        /* pack_panels, kMxfp4: kAdjacent or kHalves, where a byte's two codes belong */  \
    X(15, group_score)    /* kNoGroups, kGroupMax, kGroupSumOfTop2 */                                   \
    X(16, shared_gate)    /* combine: 1: the shared expert's output is multiplied by shared_gates */    \
    X(17, capacity)       /* route_topk: 1: selection keys and scores go to assign_capacity, no choice is made */ \
    X(18, tile_rows)      /* lanes forms: rows at a time, 1 to kLanesRows; of weights' gradients 8, 16 or 32 */ \
    X(19, keep_totals)    /* expert_up: 1: totals before the activation are stored for the backward pass */ \
    X(20, gather)         /* expert_weight_grad: 1: rows of x are found through token_of */             \
    X(21, carry)          /* expert_weight_grad: 1: a chunk of a micro-batch, accumulators are carried */ \
    X(22, gradients)      /* cross_entropy: 1: also the gradient of the logits */                       \
    X(23, skip)           /* adamw: 1: pages that were never touched stay as they are */                \
    X(24, fresh)          /* expert_weight_grad: 1: gradients are assigned, else added to what is there */

#ifdef __cplusplus
#include <cstdint>
#define VKMOE_CONSTANT(name, value) inline constexpr uint32_t name = value;
namespace vkmoe {
inline namespace v1 {
#else
#define VKMOE_CONSTANT(name, value) const uint name = value;
#endif

VKMOE_CONSTANT(kF32, 0u)
VKMOE_CONSTANT(kF16, 1u)
VKMOE_CONSTANT(kBf16, 2u)
VKMOE_CONSTANT(kMxfp4, 3u)
VKMOE_CONSTANT(kRelu, 0u)
VKMOE_CONSTANT(kSiluGlu, 1u)
VKMOE_CONSTANT(kGeluGlu, 2u)
VKMOE_CONSTANT(kClampedSwiglu, 3u)
VKMOE_CONSTANT(kBias, 1u)
VKMOE_CONSTANT(kGateBias, 2u)
VKMOE_CONSTANT(kSoftmax, 0u)
VKMOE_CONSTANT(kSoftmaxSelected, 1u)
VKMOE_CONSTANT(kSigmoid, 2u)
VKMOE_CONSTANT(kAdjacent, 0u)
VKMOE_CONSTANT(kHalves, 1u)
VKMOE_CONSTANT(kNoGroups, 0u)
VKMOE_CONSTANT(kGroupMax, 1u)
VKMOE_CONSTANT(kGroupSumOfTop2, 2u)
VKMOE_CONSTANT(kSharedNone, 0u)
VKMOE_CONSTANT(kSharedFirst, 1u)
VKMOE_CONSTANT(kSharedLast, 2u)

VKMOE_CONSTANT(kAbsent, 0xffffffffu)  // slot of an assignment to no expert

VKMOE_CONSTANT(kWorkgroup, 64u)   // invocations of every workgroup
VKMOE_CONSTANT(kPeakChains, 12u)  // of peak_multiply_add: they hide what an operation takes, and sixteen registers hold them
VKMOE_CONSTANT(kPanel, 16u)       // output rows of a weight panel
VKMOE_CONSTANT(kBlock, 32u)       // terms of one block of the order R32
VKMOE_CONSTANT(kTileRows, 32u)    // token rows of one GEMM tile
VKMOE_CONSTANT(kTilePanels, 4u)   // panels (of 16 outputs) of one GEMM tile
VKMOE_CONSTANT(kLanesOutputs, 256u)  // outputs of one workgroup of the lanes forms
VKMOE_CONSTANT(kLanesRows, 16u)      // rows at a time, at most
VKMOE_CONSTANT(kScaleGroup, 4u)   // blocks of MXFP4 whose scales share a word
VKMOE_CONSTANT(kBinChunk, 256u)   // assignments one bin_count workgroup counts

#undef VKMOE_CONSTANT

#ifdef __cplusplus
struct Constants {
#define VKMOE_FIELD(id, name) uint32_t name = 0;
    VKMOE_CONSTANTS(VKMOE_FIELD)
#undef VKMOE_FIELD
    bool operator==(const Constants&) const = default;
};
}  // inline namespace v1
}  // namespace vkmoe
#endif
#endif
