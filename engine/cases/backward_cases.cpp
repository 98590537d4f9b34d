// Cases of the gradients of routing, activation and combination.
#include "engine/cases/makers.h"

namespace vkmoe {
inline namespace v1 {

std::vector<Maker> backwardMakers() { return {}; }

}  // namespace v1
}  // namespace vkmoe
