// LmRun: what a language model's training shows of itself, compared bit for bit.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <vector>

#include "tests/train/trained.h"

namespace test {

struct LmRun {
    std::vector<double> numbers;                // losses, norms, counts
    std::vector<std::vector<uint64_t>> tokens;  // of the experts, by step
    std::vector<std::vector<float>> values;     // parameters, gradients, moments
};

inline void checkSame(const LmRun& got, const LmRun& wanted) {
    CHECK(got.numbers == wanted.numbers);
    CHECK(got.tokens == wanted.tokens);
    REQUIRE(got.values.size() == wanted.values.size());
    for (size_t i = 0; i < got.values.size(); ++i) {
        CAPTURE(i);
        CHECK(sameBits(got.values[i], wanted.values[i]));
    }
}

}  // namespace test
