#include "host/faults.h"

namespace vkmoe {
inline namespace v1 {

void Faults::arm(const FaultPlan& plan) {
    std::lock_guard lock(mutex_);
    plan_ = plan;
    seen_ = {};
    failed_ = failed_drains_ = 0;
}

uint64_t Faults::seen(FaultyCall call) const {
    std::lock_guard lock(mutex_);
    return seen_[size_t(call)];
}

uint64_t Faults::failed() const {
    std::lock_guard lock(mutex_);
    return failed_;
}

bool Faults::hits(FaultyCall call) const {
    if (plan_.nth == 0 || (plan_.call != FaultyCall::any && plan_.call != call)) return false;
    uint64_t seen = seen_[size_t(plan_.call)];
    if (!plan_.lasting || seen <= plan_.nth) return seen == plan_.nth;
    return call != FaultyCall::drain || plan_.result == Fault::device_lost || failed_drains_ == 0;
}

Fault Faults::next(FaultyCall call) {
    std::lock_guard lock(mutex_);
    ++seen_[size_t(FaultyCall::any)];
    if (call != FaultyCall::any) ++seen_[size_t(call)];
    if (!hits(call)) return Fault::none;
    ++failed_;
    failed_drains_ += call == FaultyCall::drain;
    return plan_.result;
}

}  // namespace v1
}  // namespace vkmoe
