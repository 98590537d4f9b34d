// Which kernels run an expert's matrices on a device, and how many rows at a time: the choice never changes the bits.
#pragma once

#include <initializer_list>
#include <vector>

#include "vkmoe/engine.h"
#include "vkmoe/kernels.h"

namespace vkmoe {
inline namespace v1 {

// Lanes of a subgroup as the lanes forms take it, 8 to 64; 0: the device lacks what they need.
uint32_t subgroupLanes(const DeviceLimits& limits);

// Whether lanes forms run where the rows that they load have these lengths: they load pairs. On real GPUs shared memory
// serves better than what moves from lane to lane.
bool usesLanes(const DeviceInfo& info, std::initializer_list<uint32_t> lengths);

// Outputs of a workgroup of a tiled kernel.
uint32_t tileOutputs(const KernelCode& code);

// Whether an invocation of a lanes form on a tile of `rows` rows, `height` at a time, over two matrices with `terms`
// terms a sum, loops no more often than drivers allow.
bool withinTrips(uint32_t height, uint32_t rows, uint32_t terms);

// One way to run an expert family: by tiles of up to `rows` rows, or (rows == 0) a workgroup a row.
struct ExpertForm {
    const Kernel *up = nullptr, *down = nullptr;
    uint32_t rows = 0;
};

// The forms of one expert family on one device, fewest rows first.
class ExpertForms {
public:
    // Builds (and, at first use, probes) every form for these constants, for experts of this width and hidden width.
    static Result<ExpertForms> create(Engine& engine, const Constants& up, const Constants& down, uint32_t model_dim,
                                      uint32_t hidden_dim);

    // The form for `slots` rows over `experts` experts; `cols` is the longer side of the matrices.
    const ExpertForm& choose(uint32_t slots, uint32_t experts, uint32_t cols) const;

    uint32_t tileOutputs() const { return v1::tileOutputs(*forms_.back().up->code); }  // of one workgroup of a tile

    // Threads of a direct dispatch over `rows` rows of one expert.
    uint64_t threads(const ExpertForm& form, uint32_t rows, uint32_t outputs) const;

private:
    std::vector<ExpertForm> forms_;
};

}  // namespace v1
}  // namespace vkmoe
