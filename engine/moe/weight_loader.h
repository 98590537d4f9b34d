// WeightLoader: tensors of a file, in slices, through staging into their places on the device.
#pragma once

#include <vector>

#include "engine/moe/tensor_slice.h"
#include "host/staging.h"
#include "vkmoe/engine.h"

namespace vkmoe {
inline namespace v1 {

class WeightLoader {
public:
    static Result<WeightLoader> create(Engine& engine, const formats::LayerSource& source);

    // Packs a matrix into panels at `target` (a device address); `widen` makes them f32 whatever the file holds.
    void matrix(const formats::TensorRange& tensor, uint64_t target, bool widen = false);
    // Copies a vector as f32, under the state rule, or under the operand rule if it is one of a dot product.
    void vector(const formats::TensorRange& tensor, uint64_t target, bool operand = false);

    // Does all that was asked for, and reports the first tensor with values that are not finite.
    Result<void> finish();

    // Where experts' pages will be read from the same file: what the system keeps of small tensors between them would
    // cut the long pieces in which it reads ahead.
    void forgetSmall() const;

private:
    struct Work {
        TensorSlice slice;
        uint64_t target;
        bool widen, operand;
    };

    WeightLoader(Engine& engine, const formats::LayerSource& source, Staging staging)
        : engine_(&engine), source_(&source), staging_(std::move(staging)) {}
    Result<void> record(const Work& work, size_t number, Staging::Slot& slot, uint64_t offset, Commands& commands);
    Result<void> runSlices();
    Result<void> checkStatus();

    Engine* engine_;
    const formats::LayerSource* source_;
    Staging staging_;
    Buffer status_;  // [slices, 2]
    std::vector<Work> work_;
};

}  // namespace v1
}  // namespace vkmoe
