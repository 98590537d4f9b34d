// SIMD forms against the scalar twins, on the generated cases of whole kernels and on every instruction set.
#pragma once

#include <fmt/format.h>

#include <span>
#include <string>

#include "engine/cases/makers.h"
#include "engine/cpu/simd/panel_tile.h"
#include "host/device.h"
#include "tests/simd_targets.h"

namespace test {

// The first difference of any form of the kernels on any shape; empty if there is none.
inline std::string differenceOnAnyTarget(std::span<const vkmoe::KernelCode* const> codes) {
    auto scalar = vkmoe::openCpuDevice({.simd = false}), device = vkmoe::openCpuDevice({.simd = true});
    for (const vkmoe::KernelCode* code : codes)
        for (const vkmoe::Constants& constants : vkmoe::productionConstants(*code, device->info().limits))
            for (const vkmoe::Shape& shape : vkmoe::edgeShapes(*code)) {
                const vkmoe::Case test = makeCase(*code, constants, shape);
                auto expected = run(*scalar, test);
                if (!expected) return expected.error().detail;
                for (int64_t target : SimdTarget::all()) {
                    SimdTarget chosen(target);
                    auto got = run(*device, test);
                    if (!got) return got.error().detail;
                    if (auto different = difference(test, *got, *expected))
                        return fmt::format("{}: {}", vkmoe::simd::targetName(), *different);
                }
            }
    return "";
}

inline std::string differenceOnAnyTarget(std::initializer_list<const vkmoe::KernelCode*> codes) {
    return differenceOnAnyTarget(std::span(codes.begin(), codes.size()));
}

}  // namespace test
