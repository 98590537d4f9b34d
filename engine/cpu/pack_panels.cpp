#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {
namespace {

uint32_t packedHalf(const PackPanels& p, uint32_t format, uint32_t row, uint32_t col) {
    if (row >= p.rows || col >= p.cols) return 0;
    uint32_t i = row * p.cols + col;
    uint32_t half = halfAt(p.source.at, i);
    float x = checked(decodeHalf(half, format), p.status, i);
    return format == kBf16 && magnitude_bits(operand_rule_bf16(x)) == 0 ? 0 : half;
}

uint32_t packedFloat(const PackPanels& p, uint32_t format, uint32_t row, uint32_t col) {
    if (row >= p.rows) return 0;
    uint32_t i = row * p.cols + col;
    return floatBitsToUint(operand_rule(checked(decodeElement(p.source.at, i, format), p.status, i)));
}

}  // namespace

void pack_panels(const PackPanels& p, const Constants& c, Groups groups) {
    bool whole_words = c.weight_format == kF32 || c.widen != 0;
    uint32_t steps = whole_words ? p.cols : ceilDiv(p.cols, 2);
    uint64_t count = uint64_t{ceilDiv(p.rows, kPanel)} * steps * kPanel;
    eachThread(groups, count, [&](uint32_t i) {
        uint32_t lane = i % kPanel, step = i / kPanel % steps, row = i / kPanel / steps * kPanel + lane;
        p.target.at[i] = whole_words ? packedFloat(p, c.weight_format, row, step)
                                     : packedHalf(p, c.weight_format, row, 2 * step) |
                                           packedHalf(p, c.weight_format, row, 2 * step + 1) << 16;
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
