#include "vkmoe/kernels.h"

#include "engine/cpu/twins.h"
#include "kernels_spirv.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// A typed twin behind the untyped signature that devices call.
template <class Params, void (*twin)(const Params&, const Constants&, Groups)>
void untyped(const void* params, const ConstantWords& constants, Groups groups) {
    twin(*static_cast<const Params*>(params), named(constants), groups);
}

#define VKMOE_SIMD_scalar(name, Params) nullptr
#define VKMOE_SIMD_simd(name, Params) untyped<Params, simd::name>

Kernels makeKernels() {
    Kernels table;
#define KERNEL(name, Params, fma, twin) \
    table.name = {#name, name##_spirv, sizeof(Params), untyped<Params, cpu::name>, VKMOE_SIMD_##twin(name, Params)};
#include "engine/kernels.inc"
#undef KERNEL
    return table;
}

}  // namespace

const Kernels& kernels() {
    static const Kernels table = makeKernels();
    return table;
}

std::vector<const KernelCode*> Kernels::all() const {
    return {
#define KERNEL(name, Params, fma, twin) &name,
#include "engine/kernels.inc"
#undef KERNEL
    };
}

}  // namespace v1
}  // namespace vkmoe
