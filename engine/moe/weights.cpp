#include "engine/moe/weights.h"

#include <fmt/format.h>

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

// Bytes of a matrix or vector in the file; rows of a fused matrix lie row_step apart.
uint64_t storedBytes(const TensorRange& tensor, const std::vector<uint64_t>& shape) {
    uint64_t cols = shape.back(), rows = shape.size() > 1 ? shape[0] : 1;
    uint64_t row = tensor.format == WeightFormat::f32     ? cols * 4
                   : tensor.format == WeightFormat::mxfp4 ? cols / 2
                                                          : cols * 2;
    return ((rows - 1) * tensor.row_step + 1) * row;
}

// The same, and it has this shape and as many bytes as that says: kernels trust them.
Result<const TensorRange*> require(const LayerSource& source, const std::string& name,
                                   const std::vector<uint64_t>& shape) {
    VKMOE_TRY(tensor, require(source, name));
    uint64_t bytes = tensor->shape == shape ? storedBytes(*tensor, shape) : 0;
    if (tensor->shape != shape || tensor->bytes != bytes || tensor->row_step == 0)
        return Error{
            ErrorCode::bad_input,
            fmt::format("{}: tensor {} has shape [{}] and {} bytes, must have shape [{}]", source.bytes->name(),
                        tensor->shown(), fmt::join(tensor->shape, ", "), tensor->bytes, fmt::join(shape, ", "))};
    if (tensor->format != WeightFormat::mxfp4) return tensor;
    uint64_t blocks = shape.back() / 32, rows = (shape[0] - 1) * tensor->row_step + 1;
    if (shape.size() != 2 || shape.back() % 32 != 0 || tensor->scales_bytes != rows * blocks)
        return Error{
            ErrorCode::bad_input,
            fmt::format("{}: tensor {} is mxfp4 of shape [{}] with {} bytes of scales: columns come in blocks of "
                        "32 with a scale each",
                        source.bytes->name(), tensor->shown(), fmt::join(shape, ", "), tensor->scales_bytes)};
    return tensor;
}

// The same, in the format expert 0 has.
Result<const TensorRange*> requireAlike(const LayerSource& source, const std::string& name,
                                        const std::vector<uint64_t>& shape, WeightFormat format) {
    VKMOE_TRY(tensor, require(source, name, shape));
    if (tensor->format != format)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: tensor {} is {}, expert 0's is {}", source.bytes->name(), tensor->shown(),
                                 vkmoe::name(tensor->format), vkmoe::name(format))};
    return tensor;
}

// What an expert's matrices are in the file. Gate and up meet the same operands, so if they differ both become f32.
struct ExpertFormats {
    WeightFormat gate = WeightFormat::f32, up = WeightFormat::f32, down = WeightFormat::f32;
    WeightFormat packedUp() const { return gate == up ? up : WeightFormat::f32; }
};

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

// One expert's tensors into its page; every expert has the formats of the first.
Result<void> loadExpert(WeightLoader& loader, const LayerSource& source, const std::string& prefix,
                        const ExpertFormats& formats, const ExpertShape& shape, const PageLayout& layout,
                        uint64_t page) {
    struct Matrix {
        const char* name;
        bool present;
        uint64_t rows, cols;
        WeightFormat stored, packed;
        uint32_t at;
    };
    struct Vector {
        const char* name;
        bool present;
        uint64_t size;
        uint32_t at;
    };
    uint64_t D = shape.model_dim, F = shape.hidden_dim;
    const Matrix matrices[] = {{".gate.weight", shape.gated, F, D, formats.gate, shape.up_format, layout.gate_weight},
                               {".up.weight", true, F, D, formats.up, shape.up_format, layout.up_weight},
                               {".down.weight", true, D, F, formats.down, shape.down_format, layout.down_weight}};
    for (const Matrix& m : matrices) {
        if (!m.present) continue;
        VKMOE_TRY(tensor, requireAlike(source, prefix + m.name, {m.rows, m.cols}, m.stored));
        loader.matrix(*tensor, page + uint64_t{m.at} * 4, m.packed != m.stored);
    }
    const Vector vectors[] = {{".gate.bias", shape.gate_bias, F, layout.gate_bias},
                              {".up.bias", shape.up_bias, F, layout.up_bias},
                              {".down.bias", shape.down_bias, D, layout.down_bias}};
    for (const Vector& v : vectors) {
        if (!v.present) continue;
        VKMOE_TRY(tensor, require(source, prefix + v.name, {v.size}));
        loader.vector(*tensor, page + uint64_t{v.at} * 4);
    }
    return {};
}

// A vector of the router buffer, if it is there: its place was carved by the caller.
Result<void> loadVector(WeightLoader& loader, const LayerSource& source, const char* name, bool present, uint64_t size,
                        uint64_t target, bool operand = false) {
    if (!present) return {};
    VKMOE_TRY(tensor, require(source, name, {size}));
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
    VKMOE_TRY(weight, require(source, "router.weight", {d.experts, d.model_dim}));
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

// The formats an expert's matrices have in the file.
Result<ExpertFormats> readFormats(const LayerSource& source, const std::string& prefix) {
    ExpertFormats formats;
    VKMOE_TRY(up, require(source, prefix + ".up.weight"));
    VKMOE_TRY(down, require(source, prefix + ".down.weight"));
    formats.gate = formats.up = up->format;
    formats.down = down->format;
    if (!source.description.gated()) return formats;
    VKMOE_TRY(gate, require(source, prefix + ".gate.weight"));
    formats.gate = gate->format;
    return formats;
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
    if (paged) return loader.finish();
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

Result<Weights> Weights::loadUnpaged(Engine& engine, const LayerSource& source) {
    VKMOE_TRY(weights, describe(source, false));
    weights.paged = true;
    VKMOE_CHECK(allocateAll(engine.device(), weights));
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
    weights.up_format = weights.down_format = weights.shared_up_format = weights.shared_down_format = format;
    VKMOE_CHECK(allocateAll(engine.device(), weights));
    return weights;
}

}  // namespace v1
}  // namespace vkmoe
