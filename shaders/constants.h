// Specialization constants: the code shape of a kernel, fixed when its pipeline is built. One id, one meaning, in every kernel.
//
// A kernel reads c_name in GLSL and constants.name in its CPU twin; a constant it does not use is ignored.
#ifndef VKMOE_CONSTANTS_H
#define VKMOE_CONSTANTS_H

#define VKMOE_CONSTANTS(X)                                                                              \
    X(0, weight_format)   /* of the source or of the packed weights: kF32, kF16, kBf16 */               \
    X(1, operand_bits)    /* significand bits an activation is rounded to, 24 = not rounded; 0: state rule */ \
    X(2, fused)           /* 1: fused multiply-add (rounded precision only: products are exact) */      \
    X(3, activation)      /* kRelu, kSiluGlu */                                                         \
    X(4, bias)            /* 1: the page holds a bias */                                                \
    X(5, dense)           /* 1: every row goes to page `dense_page` (a shared expert) */                \
    X(6, score)           /* kSoftmax, kSoftmaxSelected */                                              \
    X(7, renormalize)     /* 1: gates are divided by their sum */                                       \
    X(8, selection_bias)  /* 1: a bias that changes who is chosen, not the gate */                      \
    X(9, scaled)          /* 1: gates are multiplied by routed_scale */                                 \
    X(10, probabilities)  /* 1: also write the softmax over all experts */                              \
    X(11, lanes)          /* invocations that share one token: 8, 16, 32 or 64 */                       \
    X(12, shared)         /* order of the shared expert in combine: kSharedNone, kSharedFirst, kSharedLast */ \
    X(13, widen)          /* pack_panels: 1: the panels are f32 whatever the source (routers) */

#define kF32 0u
#define kF16 1u
#define kBf16 2u
#define kRelu 0u
#define kSiluGlu 1u
#define kSoftmax 0u
#define kSoftmaxSelected 1u
#define kSharedNone 0u
#define kSharedFirst 1u
#define kSharedLast 2u

#define kWorkgroup 64u   // invocations of every workgroup
#define kPanel 16u       // output rows of a weight panel
#define kBlock 32u       // terms of one block of the order R32
#define kTileRows 32u    // token rows of one GEMM tile
#define kTilePanels 4u   // panels (of 16 outputs) of one GEMM tile
#define kBinChunk 256u   // assignments one bin_count workgroup counts

#ifdef __cplusplus
#include <cstdint>
namespace vkmoe {
inline namespace v1 {
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
