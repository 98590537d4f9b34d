// What becomes of a row of totals: activation, rules and range checks on vectors, with the bits of the scalar twins.
//
// Totals are read in whole panels of 16 (their padding may hold anything); only `count` values are stored and checked.
#pragma once

#include "shaders/params.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

struct Epilogue {
    float* out;      // the array that is stored to
    U32 status;      // [2]
    uint32_t at;     // index of the first value in the array: out[at], and the index a bad value is counted by
    uint32_t count;  // values of the row
};

// as_operand(activate(gate, up)), and checkHidden.
void storeHidden(const Epilogue& e, const float* gate, const float* up, const Constants& c, float limit, float alpha);

// state_rule, and checked.
void storeState(const Epilogue& e, const float* totals);

// state_rule of totals that storeHidden has checked.
void storeKept(float* out, const float* totals, uint32_t count);

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
