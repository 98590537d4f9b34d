// TrainingPaging: training in memory of given sizes. The experts' weights, gradients and both moments are pages, in
// rounded precision bf16 copies, too; those of experts without tokens do not move. Weights after any step have the bits
// they have without.
#pragma once

#include <optional>
#include <string>

#include "host/pager.h"

namespace vkmoe {
inline namespace v1 {

struct TrainingPaging {
    // Bytes of pages in device memory (tier 1) and in host memory that the device reads (tier 2); together at least an
    // expert's pages, four, or five in rounded precision. Not given: as many as all pages take, on the host at most
    // half of the machine's memory. Never more than four fifths of what is free: activations need the rest.
    std::optional<uint64_t> device_budget, host_budget;
    Policy policy = Policy::automatic;
    Placement placement = Placement::automatic;
    // Read the experts that a layer will need before it is its turn: going back they are known, forward they are taken
    // for those of last time.
    bool prefetch = true;
    bool trace = false;    // keep the history of uses (visits() of a trainer)
    uint32_t readers = 3;  // threads that read
    // The folder of the nameless file that pages beyond both budgets go to; empty: they stay in ordinary memory.
    std::string scratch;
};

}  // namespace v1
}  // namespace vkmoe
