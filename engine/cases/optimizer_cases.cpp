// Cases of the optimiser.
#include "engine/cases/makers.h"

namespace vkmoe {
inline namespace v1 {

std::vector<Maker> optimizerMakers() { return {}; }

}  // namespace v1
}  // namespace vkmoe
