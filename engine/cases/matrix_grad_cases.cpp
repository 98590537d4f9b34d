// Cases of the gradients of the grouped GEMMs.
#include "engine/cases/makers.h"

namespace vkmoe {
inline namespace v1 {

std::vector<Maker> matrixGradMakers() { return {}; }

}  // namespace v1
}  // namespace vkmoe
