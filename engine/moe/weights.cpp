#include "engine/moe/weights.h"

#include <fmt/format.h>

#include <optional>

#include "engine/moe/weight_loader.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using formats::LayerSource;
using formats::TensorRange;

Result<const TensorRange*> require(const LayerSource& source, const std::string& name) {
    if (const TensorRange* tensor = source.find(name)) return tensor;
    return Error{ErrorCode::bad_input, fmt::format("{}: tensor {} is missing", source.bytes->name(), name)};
}

// The same, and it has this shape and format and as many bytes as they say: kernels trust them.
Result<const TensorRange*> require(const LayerSource& source, const std::string& name,
                                   const std::vector<uint64_t>& shape, std::optional<WeightFormat> format = {}) {
    VKMOE_TRY(tensor, require(source, name));
    uint64_t bytes = tensor->format == WeightFormat::f32 ? 4 : 2;
    for (uint64_t n : shape) bytes *= n;
    if (tensor->shape != shape || tensor->bytes != bytes)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: tensor {} has shape [{}] and {} bytes, must have shape [{}] and {} bytes",
                                 source.bytes->name(), name, fmt::join(tensor->shape, ", "), tensor->bytes,
                                 fmt::join(shape, ", "), bytes)};
    if (format && tensor->format != *format)
        return Error{ErrorCode::bad_input, fmt::format("{}: tensor {} is {}, expert 0's is {}", source.bytes->name(),
                                                       name, vkmoe::name(tensor->format), vkmoe::name(*format))};
    return tensor;
}

std::string expertPrefix(uint32_t expert) { return fmt::format("experts.{}", expert); }

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

// One expert's tensors into its page.
Result<void> loadExpert(WeightLoader& loader, const LayerSource& source, const std::string& prefix,
                        const ExpertShape& shape, const PageLayout& layout, uint64_t page) {
    struct Part {
        const char* name;
        bool present;
        std::vector<uint64_t> shape;
        std::optional<WeightFormat> format;
        uint32_t at;
    };
    uint64_t D = shape.model_dim, F = shape.hidden_dim;
    const Part parts[] = {{".gate.weight", shape.gated, {F, D}, shape.up_format, layout.gate_weight},
                          {".up.weight", true, {F, D}, shape.up_format, layout.up_weight},
                          {".down.weight", true, {D, F}, shape.down_format, layout.down_weight},
                          {".gate.bias", shape.gate_bias, {F}, {}, layout.gate_bias},
                          {".up.bias", shape.up_bias, {F}, {}, layout.up_bias},
                          {".down.bias", shape.down_bias, {D}, {}, layout.down_bias}};
    for (const Part& part : parts) {
        if (!part.present) continue;
        VKMOE_TRY(tensor, require(source, prefix + part.name, part.shape, part.format));
        uint64_t target = page + uint64_t{part.at} * 4;
        part.shape.size() == 2 ? loader.matrix(*tensor, target) : loader.vector(*tensor, target);
    }
    return {};
}

Result<void> loadRouter(WeightLoader& loader, const LayerSource& source, Device& device, Weights& weights) {
    const Description& d = source.description;
    uint64_t panels = packedWords(d.experts, d.model_dim, WeightFormat::f32) * 4,
             vector = (uint64_t{d.experts} * 4 + 15) / 16 * 16;
    weights.router_bias = panels;
    weights.selection_bias = panels + vector;
    VKMOE_TRY(router, device.allocate(panels + 2 * vector, Memory::device, "router"));
    weights.router = std::move(router);
    weights.bytes += weights.router.size();
    uint64_t address = weights.router.address();
    VKMOE_TRY(weight, require(source, "router.weight", {d.experts, d.model_dim}));
    loader.matrix(*weight, address, true);
    if (d.router_bias) {
        VKMOE_TRY(bias, require(source, "router.bias", {d.experts}));
        loader.vector(*bias, address + weights.router_bias);
    }
    if (d.selection_bias) {
        VKMOE_TRY(bias, require(source, "router.selection_bias", {d.experts}));
        loader.vector(*bias, address + weights.selection_bias);
    }
    return {};
}

Result<void> readFormats(const LayerSource& source, Weights& weights) {
    VKMOE_TRY(up, require(source, "experts.0.up.weight"));
    VKMOE_TRY(down, require(source, "experts.0.down.weight"));
    weights.up_format = up->format;
    weights.down_format = down->format;
    if (source.description.shared == Shared::none) return {};
    VKMOE_TRY(shared_up, require(source, "shared.up.weight"));
    VKMOE_TRY(shared_down, require(source, "shared.down.weight"));
    weights.shared_up_format = shared_up->format;
    weights.shared_down_format = shared_down->format;
    return {};
}

}  // namespace

Result<Weights> Weights::load(Engine& engine, const LayerSource& source) {
    auto valid = validate(source.description);
    if (!valid) return Error{valid.error().code, fmt::format("{}: {}", source.bytes->name(), valid.error().detail)};
    const Description& d = source.description;
    Weights weights;
    weights.description = d;
    VKMOE_CHECK(readFormats(source, weights));
    ExpertShape routed = routedShape(d, weights.up_format, weights.down_format);
    weights.routed = layoutPage(routed);
    VKMOE_TRY(pages, allocatePages(engine.device(), weights.routed.bytes(), d.experts, weights));
    VKMOE_TRY(loader, WeightLoader::create(engine, source));
    VKMOE_CHECK(loadRouter(loader, source, engine.device(), weights));
    if (d.shared != Shared::none) {
        ExpertShape shared = sharedShape(d, weights.shared_up_format, weights.shared_down_format);
        weights.shared = layoutPage(shared);
        VKMOE_TRY(page, allocatePages(engine.device(), weights.shared.bytes(), 1, weights));
        pages.push_back(page[0]);
        VKMOE_CHECK(loadExpert(loader, source, "shared", shared, weights.shared, page[0]));
    }
    for (uint32_t e = 0; e < d.experts; ++e)
        VKMOE_CHECK(loadExpert(loader, source, expertPrefix(e), routed, weights.routed, pages[e]));
    VKMOE_TRY(table, upload(engine.device(), pages, "page table"));
    weights.table = std::move(table);
    weights.bytes += weights.table.size();
    VKMOE_CHECK(loader.finish());
    return weights;
}

}  // namespace v1
}  // namespace vkmoe
