// TrainingMemory: what training a model takes of its device's memory, part by part.
#pragma once

#include <cstdint>
#include <string>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

struct TrainingMemory {
    uint64_t weights = 0;      // f32; in rounded precision also their bf16 copies
    uint64_t gradients = 0;    // as large as the f32 weights
    uint64_t moments = 0;      // twice that
    uint64_t activations = 0;  // of the tokens that are on the device at once, and gradients of activations

    uint64_t pages = 0;  // slots of experts that are paged; their weights, gradients and moments are not above

    uint64_t total() const { return weights + gradients + moments + activations + pages; }
    // "weights 1.0 MiB, gradients ...", for people.
    std::string shown() const;
};

// Whether a device with `left` bytes can train so many parameters at all, without pages. Errors: out_of_memory, which
// says what would fit.
Result<void> checkTrainable(uint64_t parameters, uint64_t left);

}  // namespace v1
}  // namespace vkmoe
