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

}  // namespace v1
}  // namespace vkmoe
