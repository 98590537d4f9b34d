// Case: a kernel, its constants, a filled parameter struct and the memory it points to, ready to run on any device.
//
// Probes, `vkmoe verify`, `vkmoe bench` and the kernel tests all run cases: fill once, run on two devices, compare
// bits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "host/device.h"
#include "vkmoe/kernels.h"

namespace vkmoe {
inline namespace v1 {

class Case {
public:
    struct Region {
        std::string name;
        std::vector<uint32_t> words;  // contents before the run
        bool output = false;          // compared after the run
    };
    // At byte `offset` of the parameters (region < 0) or of a region stands the address of a region.
    struct Link {
        int where = -1;
        size_t offset = 0;
        size_t target = 0;
    };

    Case(const KernelCode& code, const Constants& constants, std::string label)
        : code_(&code), constants_(constants), label_(std::move(label)), params_(code.params_size) {}

    // Adds memory; returns its number.
    size_t input(std::string name, std::vector<uint32_t> words) {
        return add(std::move(name), std::move(words), false);
    }
    size_t output(std::string name, std::vector<uint32_t> words) {
        return add(std::move(name), std::move(words), true);
    }
    size_t output(std::string name, size_t words) {
        return output(std::move(name), std::vector<uint32_t>(words, 0xa5a5a5a5u));
    }

    // Points a parameter (by its offset in the struct) or a word pair of a region at a region.
    void point(size_t param_offset, size_t region) { links_.push_back({-1, param_offset, region}); }
    void pointFrom(size_t region, size_t byte_offset, size_t target) {
        links_.push_back({int(region), byte_offset, target});
    }

    template <class Params>
    void setParams(const Params& params) {
        std::memcpy(params_.data(), &params, sizeof params);
    }

    uint64_t threads = 0;
    double flops = 0, bytes = 0;  // the work the kernel must do and the memory it must move

    const KernelCode& code() const { return *code_; }
    const Constants& constants() const { return constants_; }
    const std::string& label() const { return label_; }
    const std::vector<Region>& regions() const { return regions_; }
    // What a region holds before the run, in place of what was added.
    void setWords(size_t region, std::vector<uint32_t> words) { regions_[region].words = std::move(words); }
    const std::vector<Link>& links() const { return links_; }
    const std::vector<std::byte>& params() const { return params_; }

private:
    size_t add(std::string name, std::vector<uint32_t> words, bool output);

    const KernelCode* code_;
    Constants constants_;
    std::string label_;
    std::vector<std::byte> params_;
    std::vector<Region> regions_;
    std::vector<Link> links_;
};

struct CaseRun {
    std::vector<std::vector<uint32_t>> regions;  // after the run, those that are outputs; empty for inputs
    double seconds = 0;                          // the fastest of the timed repetitions
};

// Runs a case on a device. With repeats > 0 the dispatch is repeated so often, each time alone, and timed.
Result<CaseRun> run(Device& device, const Case& test, uint32_t repeats = 0);

// The first difference in sentence form ("route_topk [..]: gates[3] is 0x3f000000, the CPU's is 0x3f000001"), if any.
std::optional<std::string> difference(const Case& test, const CaseRun& device, const CaseRun& cpu);

}  // namespace v1
}  // namespace vkmoe
