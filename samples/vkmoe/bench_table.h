// BenchTable: what a benchmark measured, and how it is shown.
#pragma once

#include <string>
#include <vector>

#include "samples/vkmoe/commands.h"

namespace vkmoe::program {

// Measured on the device itself.
struct Peaks {
    double multiply_add = 0, fused = 0;  // flop/s, of a product that is rounded before it is added; of a fused one
    double read = 0;                     // bytes/s
};

struct BenchRow {
    std::string kernel, form;
    bool fused = false;
    double seconds = 0, flops = 0, bytes = 0;  // the work that must be done, the memory that must be moved
    // Flop/s: the arithmetic peak again, the larger of right before and right after. Clocks wander. 0: not measured.
    double peak_beside = 0;
};

struct BenchTable {
    DeviceInfo device;
    BenchOptions options;
    Peaks peaks;
    std::vector<BenchRow> rows;

    // The share of the peak that bounds the row: of arithmetic or of reading, whichever takes longer.
    double fraction(const BenchRow& row) const;
    bool boundByReading(const BenchRow& row) const;
};

Json benchJson(const BenchTable& table);
std::string benchText(const BenchTable& table);
std::string benchHtml(const BenchTable& table);  // a bar for each row, as a page of its own

}  // namespace vkmoe::program
