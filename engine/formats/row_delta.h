// RowDelta: the rows in which two arrays of numbers differ, and EVD0, the reference engine's file of them.
//
// A file is four little-endian u32 (magic 0x30445645, version 1, rowSize, nRows), the rows' numbers as u32 in ascending
// order, rowSize float32 of each, and the trailer of crc_trailer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "host/file.h"
#include "host/result.h"
#include "vkmoe/lm_config.h"

namespace vkmoe::formats {

inline constexpr uint64_t kEvd0HeaderBytes = 16;

struct RowDelta {
    uint32_t row_size = 1;
    std::vector<uint32_t> rows;
    std::vector<float> values;  // row_size of each row
};

// What makes two numbers different.
struct Difference {
    bool by_bits =
        false;           // any bit; else the reference engine's rule: |current - base| > epsilon, which sees no change
    double epsilon = 0;  // to or from NaN, nor from 0 to -0
};

// `row_size` must divide the arrays' common length.
Result<RowDelta> computeRowDelta(std::span<const float> base, std::span<const float> current, uint32_t row_size,
                                 Difference difference = {});

// A copy of `base` with the delta's rows. A row that it does not have is an error.
Result<std::vector<float>> applyRowDelta(std::span<const float> base, const RowDelta& delta);

// Of a language model's delta: dModel numbers if rows of so many make up all parameters, else one.
uint32_t lmRowSize(const LmConfig& config);

// The delta of a language model's parameters, in rows of lmRowSize.
// Differences are bits, so that applying it restores `current` exactly; without changes to or from NaN or between 0 and
// -0 it is the reference engine's.
Result<RowDelta> computeLmDelta(const LmConfig& config, std::span<const float> base, std::span<const float> current);

// The delta of two checkpoints of one length: of their bytes, without trailers, as float32 in rows of one.
Result<RowDelta> computeFileDelta(const ByteSource& base, const ByteSource& current);

// The bytes of the second checkpoint, with a trailer.
Result<std::vector<std::byte>> applyFileDelta(const ByteSource& base, const RowDelta& delta);

bool looksLikeRowDelta(std::span<const std::byte> first_bytes);

// Compat accepts what the reference engine accepts: other versions, no trailer, bytes after the last row, rows in any
// order. Values are taken as they are: those of files are not always numbers.
Result<RowDelta> readRowDelta(const ByteSource& file, bool compat = false);

std::vector<std::byte> writeRowDelta(const RowDelta& delta);

}  // namespace vkmoe::formats
