// PagedExperts: the pager of a model's experts and what goes with it: opened within the budgets, reported call by call.
#pragma once

#include "engine/formats/tensor_source.h"
#include "engine/moe/host_experts.h"
#include "vkmoe/paging.h"

namespace vkmoe {
inline namespace v1 {

// What a pager has done so far, and where its pages are.
PagingReport reportOf(const Pager& pager);

class PagedExperts {
public:
    // One source and one page table a layer, in order: group i of the pager. If everything fits, everything is read.
    static Result<std::unique_ptr<PagedExperts>> open(Engine& engine, std::vector<formats::LayerSource> layers,
                                                      std::span<const Buffer* const> tables,
                                                      const PagingOptions& options);

    Pager& pager() { return *pager_; }
    const Pager& pager() const { return *pager_; }
    HostExperts* host() { return host_.get(); }  // null: the device computes everything

    // What was done since startReport, or opening.
    void startReport();
    PagingReport report() const;

private:
    PagedExperts() = default;

    std::unique_ptr<Pager> pager_;
    std::unique_ptr<HostExperts> host_;
    uint64_t opening_bytes_ = 0;
    PagerCounters before_;
    double seconds_before_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
