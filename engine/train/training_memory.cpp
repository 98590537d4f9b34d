#include "vkmoe/training_memory.h"

#include <fmt/format.h>

namespace vkmoe {
inline namespace v1 {
namespace {

std::string mebibytes(uint64_t bytes) { return fmt::format("{:.1f} MiB", double(bytes) / (1 << 20)); }

}  // namespace

std::string TrainingMemory::shown() const {
    std::string paged = pages == 0 ? "" : ", pages " + mebibytes(pages);
    return fmt::format("weights {}, gradients {}, moments {}, activations {}{}: {}", mebibytes(weights),
                       mebibytes(gradients), mebibytes(moments), mebibytes(activations), paged, mebibytes(total()));
}

Result<void> checkTrainable(uint64_t parameters, uint64_t left) {
    const uint64_t needed = 16 * parameters;
    if (needed <= left) return {};
    return Error{ErrorCode::out_of_memory,
                 fmt::format("{} parameters in training need {} bytes for weights, gradients and moments, and {} are "
                             "left: {} parameters would fit, or experts in pages",
                             parameters, needed, left, left / 16)};
}

}  // namespace v1
}  // namespace vkmoe
