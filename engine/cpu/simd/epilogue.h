// What becomes of a tile of totals: activation, rules and range checks on vectors, with the bits of the scalar twins.
//
// Totals are [rows][kRunOutputs], read in whole panels of 16 (their padding may hold anything); only `count` values of
// a row are stored and checked.
#pragma once

#include "engine/cpu/simd/panel_tile.h"
#include "shaders/params.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {

using Totals = const float (*)[kRunOutputs];

struct Epilogue {
    float* out;   // the array that is stored to, [.., width]
    U32 status;   // [2]
    uint32_t at;  // index of the first value in the array: out[at], and the index a bad value is counted by
    uint32_t width;
    uint32_t rows, count;  // of the tile, values of a row
};

// as_operand(activate(gate, up)), and checkHidden.
void storeHidden(const Epilogue& e, Totals gate, Totals up, const Constants& c, float limit, float alpha);

// state_rule, and checked.
void storeState(const Epilogue& e, Totals totals);

// state_rule of totals that storeHidden has checked.
void storeKept(const Epilogue& e, Totals totals);

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
