// Cases of the language model's kernels.
#include "engine/cases/makers.h"

namespace vkmoe {
inline namespace v1 {

std::vector<Maker> languageMakers() { return {}; }

}  // namespace v1
}  // namespace vkmoe
