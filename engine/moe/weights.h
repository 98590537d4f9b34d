// Weights: a layer's parameters on a device: every expert's page, the page table that kernels read, and the router.
#pragma once

#include <vector>

#include "engine/formats/tensor_source.h"
#include "engine/moe/page_layout.h"
#include "vkmoe/engine.h"

namespace vkmoe {
inline namespace v1 {

struct Weights {
    Description description;
    WeightFormat up_format = WeightFormat::f32, down_format = WeightFormat::f32;                // routed experts
    WeightFormat shared_up_format = WeightFormat::f32, shared_down_format = WeightFormat::f32;  // the shared one
    PageLayout routed, shared;
    std::vector<Buffer> slabs;    // routed pages, none across two slabs; the shared page last
    std::vector<uint64_t> pages;  // [experts + 1] their addresses, the shared expert's last
    Buffer table;                 // [experts + 1] addresses, the shared expert's last
    bool paged = false;           // routed experts' pages are a Pager's; null in `pages`
    Buffer router;                // f32 panels, biases, the shared expert's gate
    uint64_t router_bias = 0, selection_bias = 0, shared_router = 0;  // bytes into `router`
    uint64_t bytes = 0;                                               // of all of the above

    uint32_t sharedPage() const { return description.experts; }

    // Reads every tensor, packs it on the device, and checks it: a value that is not finite is an error that names the
    // tensor, how many, and the first one's row and column. With `widen` all become f32, as training wants them.
    static Result<Weights> load(Engine& engine, const formats::LayerSource& source, bool widen = false);

    // The same without the routed experts, whose table entries are null until a Pager sets them.
    static Result<Weights> loadUnpaged(Engine& engine, const formats::LayerSource& source, bool widen = false);

    // Reads every tensor again, into the memory that is there.
    Result<void> fill(Engine& engine, const formats::LayerSource& source) const;

    // Memory for the same layer with matrices in another format, paged if that is; nothing in it yet but the page
    // table.
    static Result<Weights> allocateAs(Engine& engine, const Weights& other, WeightFormat format);
};

}  // namespace v1
}  // namespace vkmoe
