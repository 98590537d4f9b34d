// HostExperts: experts of a turn that the CPU computes while the device works on the others. Same kernels, same bits.
//
//     host.recordInputs(commands, pager, {pass, workspace, tokens, first_page});  // after a layer's head
//     ... submit, wait, pager.start(pages) ...
//     host.choose(pager, pages);
//     ... in each wave: record what the device does of it, submit ...
//     VKMOE_CHECK(host.run(commands, pager));   // records how the results come into the workspace
//     ... after the last wave: host.takeStatus() ...
#pragma once

#include <array>
#include <memory>

#include "engine/moe/cost_model.h"
#include "engine/moe/expert_turn.h"
#include "host/probe_bandwidth.h"
#include "vkmoe/paging.h"

namespace vkmoe {
inline namespace v1 {

class HostExperts {
public:
    // With HostCompute::automatic nothing is left to the host unless `speeds` are known.
    HostExperts(Device& device, HostCompute choice, const MemorySpeeds& speeds);

    // Brings operands and slots to the host, unless the device will do everything in any case.
    void recordInputs(Commands& commands, const Pager& pager, const ExpertTurn& turn);

    // Leaves some of the turn's pages to the host.
    void choose(Pager& pager, std::span<const PageId> pages);

    // Whether any page of the pager's wave is the host's, and whether all are.
    static bool someLeft(const Pager& pager);
    static bool allLeft(const Pager& pager);

    // Computes those. `value` ends what the device has of the wave; 0: nothing. The list must be submitted before the
    // next turn's inputs are recorded.
    Result<void> run(Commands& commands, const Pager& pager, uint64_t value);

    // What run() has counted since it was last taken, for ForwardPass::mergeStatus.
    std::array<uint32_t, 4> takeStatus();

    const CostModel& model() const { return model_; }

private:
    // An expert of the wave: slots [first, first + rows).
    struct Share {
        PageId page = 0;
        uint32_t expert = 0, first = 0, rows = 0;
        const std::byte* bytes = nullptr;
    };
    const uint32_t* sorted(uint64_t workspace_offset) const;  // of the downloaded sort
    uint32_t rowsOf(PageId page) const;
    std::vector<PageId> pick(const Pager& pager, std::span<const PageId> pages);
    std::vector<Share> sharesOf(const Pager& pager) const;
    bool ensure(Device& device, Buffer& buffer, Memory memory, uint64_t bytes) const;
    Result<void> compute(std::span<const Share> shares);
    void recordCopies(Commands& commands, std::span<const Share> shares);

    Device& device_;
    std::unique_ptr<Device> cpu_;  // before its buffers
    HostCompute choice_;
    CostModel model_;
    Buffer down_, up_;      // of device_: inputs; results
    Buffer hidden_, y_;     // of cpu_, as in the workspace
    ExpertTurn turn_;       // pass null: the host has no inputs
    uint64_t x_bytes_ = 0;  // of down_, before the sort
    uint64_t up_used_ = 0;  // bytes of this turn's results
    size_t turn_pages_ = 0;
    double predicted_ = 0;    // seconds of the device in this turn; 0: none were
    std::vector<U32> table_;  // [experts] addresses of the wave's pages
    std::vector<uint32_t> tiles_;
    std::array<uint32_t, 4> status_ = {};
};

}  // namespace v1
}  // namespace vkmoe
