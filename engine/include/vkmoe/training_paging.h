// TrainingPaging: training in memory of given sizes. The experts' weights, gradients and both moments are pages; those
// of experts without tokens do not move. Weights after any step have the bits they have without.
#pragma once

#include <optional>
#include <string>

#include "host/pager.h"

namespace vkmoe {
inline namespace v1 {

struct TrainingPaging {
    // Bytes of pages in device memory (tier 1) and in host memory that the device reads (tier 2); together at least an
    // expert's four pages. Not given: on the device half of what is free of its memory, on the host half of the
    // machine's memory; never more than all pages take.
    std::optional<uint64_t> device_budget, host_budget;
    Policy policy = Policy::automatic;
    Placement placement = Placement::automatic;
    uint32_t readers = 3;  // threads that read
    // The folder of the nameless file that pages beyond both budgets go to; empty: they stay in ordinary memory.
    std::string scratch;
};

}  // namespace v1
}  // namespace vkmoe
