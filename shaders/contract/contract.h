// The contract of NoContraction and exact arithmetic, held against one kernel. spirv_contract.cpp is the manual.
#pragma once

#include <string>
#include <vector>

#include "shaders/contract/module.h"

namespace vkmoe::spirv {

struct Contract {
    bool fma = false;    // the kernel is marked `rounded`: GLSL.std.450 Fma is allowed
    bool int64 = false;  // the host runs the kernel only where there are 64-bit integers
};

// One sentence per broken rule, in the order of the module: "in main(: OpDot: write ...". Empty if the kernel is good.
std::vector<std::string> violations(const Module& module, Contract contract);

// The words of the module with NoContraction on every float add, subtract, multiply, negate, divide and Fma.
std::vector<uint32_t> decorate(const Module& module);

struct Decorated {
    size_t results = 0;   // results that must carry NoContraction
    size_t missing = 0;   // those that do not
    size_t repeated = 0;  // NoContraction on an id that has it already
};
Decorated countDecorated(const Module& module);

}  // namespace vkmoe::spirv
