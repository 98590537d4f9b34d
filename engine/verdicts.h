// Verdicts: which kernels a device has already proved, kept between runs.
//
// A verdict is valid for exactly one driver, device, shader and set of constants; any difference is another key. Only
// passes are kept: a device that failed is examined again.
#pragma once

#include <set>
#include <string>

#include "host/device.h"
#include "vkmoe/engine.h"

namespace vkmoe {
inline namespace v1 {

class Engine::Verdicts {
public:
    Verdicts(const std::string& folder, std::string identity);
    ~Verdicts();  // stores what is new; a folder that cannot be written costs time at the next start, nothing else

    bool passed(const KernelCode& code, const ConstantWords& constants) const;
    void record(const KernelCode& code, const ConstantWords& constants);

private:
    std::string key(const KernelCode& code, const ConstantWords& constants) const;
    std::string path_, identity_;
    std::set<std::string> passed_;
    bool changed_ = false;
};

}  // namespace v1
}  // namespace vkmoe
