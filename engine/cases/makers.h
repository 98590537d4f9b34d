// Makers: for each kernel, how a case is cut from a scene, and which forms of it are in production. One list a family
// of kernels, each in a file of its own.
#pragma once

#include <cstddef>
#include <span>

#include "engine/cases/scene.h"

// Points a member of the parameters at a region of `test`.
#define VKMOE_POINT(Params, member, region) test.point(offsetof(Params, member), region)

namespace vkmoe {
inline namespace v1 {

using Words = std::vector<uint32_t>;

struct Maker {
    const KernelCode* code;
    Case (*make)(const KernelCode&, const Constants&, const Shape&, Values&);
    // Every production form; null: those of variants.cpp, or the one without constants.
    std::vector<Constants> (*forms)(const DeviceLimits&) = nullptr;
};

std::vector<Maker> forwardMakers();     // kernel_cases.cpp
std::vector<Maker> backwardMakers();    // backward_cases.cpp: gradients of routing, activation and combination
std::vector<Maker> matrixGradMakers();  // matrix_grad_cases.cpp: gradients of the grouped GEMMs
std::vector<Maker> optimizerMakers();   // optimizer_cases.cpp
std::vector<Maker> languageMakers();    // language_cases.cpp: kernels of the language model

// All of them.
const std::vector<Maker>& makers();

}  // namespace v1
}  // namespace vkmoe
