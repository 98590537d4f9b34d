#include <algorithm>

#include "vkmoe/optimizer.h"

namespace vkmoe {
inline namespace v1 {

bool LossScaler::update(bool finite) {
    if (!finite) {
        scale_ = std::max(options_.minimum, scale_ * options_.backoff);
        streak_ = 0;
        return false;
    }
    if (++streak_ >= options_.interval) {
        scale_ *= options_.growth;
        streak_ = 0;
    }
    return true;
}

}  // namespace v1
}  // namespace vkmoe
