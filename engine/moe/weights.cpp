#include "engine/moe/weights.h"

#include <fmt/format.h>

#include "engine/moe/expert_parts.h"
#include "engine/moe/weight_loader.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using formats::LayerSource;

// Device memory for `count` pages in slabs, and the address of each.
Result<std::vector<uint64_t>> allocatePages(Device& device, uint64_t page_bytes, uint32_t count, Weights& weights) {
    std::vector<uint64_t> addresses;
    uint64_t per_slab =
        std::max<uint64_t>(std::min<uint64_t>(device.info().limits.max_allocation / page_bytes, count), 1);
    while (addresses.size() < count) {
        uint64_t pages = std::min<uint64_t>(per_slab, count - addresses.size());
        VKMOE_TRY(slab, device.allocate(pages * page_bytes, Memory::device,
                                        fmt::format("{} expert pages of {} bytes", pages, page_bytes)));
        for (uint64_t i = 0; i < pages; ++i) addresses.push_back(slab.address() + i * page_bytes);
        weights.bytes += slab.size();
        weights.slabs.push_back(std::move(slab));
    }
    return addresses;
}

// One expert's tensors into its page; every expert has the formats of the first.
Result<void> loadExpert(WeightLoader& loader, const LayerSource& source, const std::string& prefix,
                        const ExpertFormats& formats, const ExpertShape& shape, const PageLayout& layout,
                        uint64_t page) {
    VKMOE_TRY(parts, expertParts(source, prefix, formats, shape, layout));
    for (const PagePart& part : parts) {
        uint64_t target = page + uint64_t{part.at} * 4;
        part.is_matrix ? loader.matrix(*part.tensor, target, part.widen) : loader.vector(*part.tensor, target);
    }
    return {};
}

// A vector of the router buffer, if it is there: its place was carved by the caller.
Result<void> loadVector(WeightLoader& loader, const LayerSource& source, const char* name, bool present, uint64_t size,
                        uint64_t target, bool operand = false) {
    if (!present) return {};
    VKMOE_TRY(tensor, requireTensor(source, name, {size}));
    loader.vector(*tensor, target, operand);
    return {};
}

// The router's panels, its biases and the shared expert's gate, one after the other in one buffer.
Result<void> allocateRouter(Device& device, Weights& weights) {
    const Description& d = weights.description;
    auto aligned = [](uint64_t words) { return (words * 4 + 15) / 16 * 16; };
    weights.router_bias = packedWords(d.experts, d.model_dim, WeightFormat::f32) * 4;
    weights.selection_bias = weights.router_bias + aligned(d.experts);
    weights.shared_router = weights.selection_bias + aligned(d.experts);
    VKMOE_TRY(router, device.allocate(weights.shared_router + aligned(d.model_dim), Memory::device, "router"));
    weights.router = std::move(router);
    weights.bytes += weights.router.size();
    return {};
}

Result<void> loadRouter(WeightLoader& loader, const LayerSource& source, const Weights& weights) {
    const Description& d = source.description;
    uint64_t address = weights.router.address();
    VKMOE_TRY(weight, requireTensor(source, "router.weight", {d.experts, d.model_dim}));
    loader.matrix(*weight, address, true);
    VKMOE_CHECK(loadVector(loader, source, "router.bias", d.router_bias, d.experts, address + weights.router_bias));
    VKMOE_CHECK(loadVector(loader, source, "router.selection_bias", d.selection_bias, d.experts,
                           address + weights.selection_bias));
    return loadVector(loader, source, "shared.router.weight", d.shared == Shared::sigmoid_gated, d.model_dim,
                      address + weights.shared_router, true);
}

// Pages, their table and the router's buffer, for the formats in `weights`.
Result<void> allocateAll(Device& device, Weights& weights) {
    const Description& d = weights.description;
    weights.routed = layoutPage(routedShape(d, weights.up_format, weights.down_format));
    weights.pages.assign(d.experts, 0);
    if (!weights.paged) {
        VKMOE_TRY(pages, allocatePages(device, weights.routed.bytes(), d.experts, weights));
        weights.pages = std::move(pages);
    }
    if (d.shared != Shared::none) {
        weights.shared = layoutPage(sharedShape(d, weights.shared_up_format, weights.shared_down_format));
        VKMOE_TRY(page, allocatePages(device, weights.shared.bytes(), 1, weights));
        weights.pages.push_back(page[0]);
    }
    VKMOE_TRY(table, upload(device, weights.pages, "page table"));
    weights.table = std::move(table);
    weights.bytes += weights.table.size();
    return allocateRouter(device, weights);
}

}  // namespace

namespace {

// What lies between tensors is zero for an optimiser that goes over whole slabs.
Result<void> zero(Device& device, const Weights& weights) {
    Commands commands;
    for (const Buffer& slab : weights.slabs) commands.fill(slab, 0, slab.size(), 0);
    commands.fill(weights.router, 0, weights.router.size(), 0);
    return submitAndWait(device, commands);
}

}  // namespace

Result<void> Weights::fill(Engine& engine, const LayerSource& source) const {
    const Description& d = description;
    VKMOE_TRY(loader, WeightLoader::create(engine, source));
    VKMOE_CHECK(loadRouter(loader, source, *this));
    if (d.shared != Shared::none) {
        VKMOE_TRY(formats, readFormats(source, "shared"));
        VKMOE_CHECK(loadExpert(loader, source, "shared", formats, sharedShape(d, shared_up_format, shared_down_format),
                               shared, pages[d.experts]));
    }
    if (paged) {
        VKMOE_CHECK(loader.finish());
        loader.forgetSmall();
        return {};
    }
    VKMOE_TRY(formats, readFormats(source, "experts.0"));
    ExpertShape shape = routedShape(d, up_format, down_format);
    for (uint32_t e = 0; e < d.experts; ++e)
        VKMOE_CHECK(loadExpert(loader, source, expertPrefix(e), formats, shape, routed, pages[e]));
    return loader.finish();
}

namespace {

// Formats and layouts, nothing on the device yet.
Result<Weights> describe(const LayerSource& source, bool widen) {
    auto valid = validate(source.description);
    if (!valid) return Error{valid.error().code, fmt::format("{}: {}", source.bytes->name(), valid.error().detail)};
    Weights weights;
    weights.description = source.description;
    VKMOE_TRY(formats, readFormats(source, "experts.0"));
    weights.up_format = widen ? WeightFormat::f32 : formats.packedUp();
    weights.down_format = widen ? WeightFormat::f32 : formats.down;
    if (source.description.shared != Shared::none) {
        VKMOE_TRY(shared_formats, readFormats(source, "shared"));
        weights.shared_up_format = widen ? WeightFormat::f32 : shared_formats.packedUp();
        weights.shared_down_format = widen ? WeightFormat::f32 : shared_formats.down;
    }
    return weights;
}

}  // namespace

Result<Weights> Weights::loadUnpaged(Engine& engine, const LayerSource& source, bool widen) {
    VKMOE_TRY(weights, describe(source, widen));
    weights.paged = true;
    VKMOE_CHECK(allocateAll(engine.device(), weights));
    if (widen) VKMOE_CHECK(zero(engine.device(), weights));
    VKMOE_CHECK(weights.fill(engine, source));
    return weights;
}

Result<Weights> Weights::load(Engine& engine, const LayerSource& source, bool widen) {
    VKMOE_TRY(weights, describe(source, widen));
    VKMOE_CHECK(allocateAll(engine.device(), weights));
    if (widen) VKMOE_CHECK(zero(engine.device(), weights));
    VKMOE_CHECK(weights.fill(engine, source));
    return weights;
}

Result<Weights> Weights::allocateAs(Engine& engine, const Weights& other, WeightFormat format) {
    Weights weights;
    weights.description = other.description;
    weights.paged = other.paged;
    weights.up_format = weights.down_format = weights.shared_up_format = weights.shared_down_format = format;
    VKMOE_CHECK(allocateAll(engine.device(), weights));
    return weights;
}

}  // namespace v1
}  // namespace vkmoe
