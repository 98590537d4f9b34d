#include "engine/moe/expert_forms.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "engine/ceil_div.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kLanesHeights[] = {1, 4, kLanesRows};
constexpr uint32_t kMostTrips = 32768;  // loop iterations of one invocation

// Where the next form is about as fast, measured on lavapipe 22.3: one row against four costs 1 to 1.3, four against
// sixteen 1 to 1.9.
bool fits(const ExpertForm& form, uint32_t slots, uint32_t experts) {
    if (form.rows == 0) return slots <= 2 * uint64_t{experts};
    if (form.rows == 1) return 2 * uint64_t{slots} <= experts || (experts == 1 && slots == 1);
    return slots <= 6 * uint64_t{experts};
}

}  // namespace

uint32_t subgroupLanes(const DeviceLimits& limits) {
    if (!limits.subgroup_broadcast || limits.subgroup_size < 8) return 0;
    return std::min(std::bit_floor(limits.subgroup_size), kWorkgroup);
}

bool usesLanes(const DeviceInfo& info, std::initializer_list<uint32_t> lengths) {
    return info.type == DeviceType::software && subgroupLanes(info.limits) != 0 &&
           std::ranges::all_of(lengths, [](uint32_t length) { return length % 2 == 0; });
}

// Two matrices, in chunks of sixteen terms and in blocks.
bool withinTrips(uint32_t height, uint32_t rows, uint32_t terms) {
    return uint64_t{ceilDiv(rows, height)} * 2 * (ceilDiv(terms, 16) + ceilDiv(terms, kBlock) + 2) <= kMostTrips;
}

uint32_t tileOutputs(const KernelCode& code) {
    return std::string_view(code.name).ends_with("_lanes") ? kLanesOutputs : kPanel * kTilePanels;
}

Result<ExpertForms> ExpertForms::create(Engine& engine, const Constants& up, const Constants& down, uint32_t model_dim,
                                        uint32_t hidden_dim) {
    ExpertForms out;
    auto add = [&](const KernelCode& up_code, Constants up_constants, const KernelCode& down_code,
                   Constants down_constants, uint32_t rows) -> Result<void> {
        VKMOE_TRY(up_kernel, engine.kernel(up_code, up_constants));
        VKMOE_TRY(down_kernel, engine.kernel(down_code, down_constants));
        out.forms_.push_back({up_kernel, down_kernel, rows});
        return {};
    };
    const Kernels& k = kernels();
    if (!usesLanes(engine.device().info(), {model_dim, hidden_dim})) {
        VKMOE_CHECK(add(k.expert_up_gemv, up, k.expert_down_gemv, down, 0));
        VKMOE_CHECK(add(k.expert_up, up, k.expert_down, down, kTileRows));
        return out;
    }
    for (uint32_t height : kLanesHeights) {
        Constants tall_up = up, tall_down = down;
        tall_up.lanes = tall_down.lanes = subgroupLanes(engine.device().info().limits);
        tall_up.tile_rows = tall_down.tile_rows = height;
        VKMOE_CHECK(add(k.expert_up_lanes, tall_up, k.expert_down_lanes, tall_down, height));
    }
    return out;
}

const ExpertForm& ExpertForms::choose(uint32_t slots, uint32_t experts, uint32_t cols) const {
    for (const ExpertForm& form : forms_) {
        bool short_enough = form.rows == 0 || withinTrips(form.rows, std::min(slots, kTileRows), cols);
        if (short_enough && fits(form, slots, experts)) return form;
    }
    return forms_.back();
}

uint64_t ExpertForms::threads(const ExpertForm& form, uint32_t rows, uint32_t outputs) const {
    if (form.rows == 0) return uint64_t{rows} * ceilDiv(outputs, kPanel) * kWorkgroup;
    return uint64_t{ceilDiv(rows, kTileRows)} * ceilDiv(outputs, tileOutputs()) * kWorkgroup;
}

}  // namespace v1
}  // namespace vkmoe
