#include "engine/train/read_back.h"

#include <algorithm>
#include <cstring>

#include "engine/formats/layer_tensors.h"
#include "host/transfer.h"
#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using formats::LayerSource;
using formats::TensorRange;
using formats::TensorRole;

// Where a role's values are: a word offset in an expert's page, or in the router's buffer.
uint64_t offsetOf(TensorRole role, const Weights& w) {
    switch (role) {
        case TensorRole::router_weight:
            return 0;
        case TensorRole::router_bias:
            return w.router_bias / 4;
        case TensorRole::selection_bias:
            return w.selection_bias / 4;
        case TensorRole::shared_router_weight:
            return 0;
        case TensorRole::gate_weight:
            return w.routed.gate_weight;
        case TensorRole::up_weight:
            return w.routed.up_weight;
        case TensorRole::down_weight:
            return w.routed.down_weight;
        case TensorRole::gate_bias:
            return w.routed.gate_bias;
        case TensorRole::up_bias:
            return w.routed.up_bias;
        case TensorRole::down_bias:
            return w.routed.down_bias;
        case TensorRole::shared_gate_weight:
            return w.shared.gate_weight;
        case TensorRole::shared_up_weight:
            return w.shared.up_weight;
        case TensorRole::shared_down_weight:
            return w.shared.down_weight;
        case TensorRole::shared_gate_bias:
            return w.shared.gate_bias;
        case TensorRole::shared_up_bias:
            return w.shared.up_bias;
        case TensorRole::shared_down_bias:
            return w.shared.down_bias;
    }
    return 0;
}

bool inRouterBuffer(TensorRole role) {
    return role == TensorRole::router_weight || role == TensorRole::router_bias || role == TensorRole::selection_bias;
}

// The pages in a layer's slabs, [experts (+ shared)].
std::vector<std::span<const float>> pagesOf(const Weights& w, const LayerMemory& memory) {
    std::vector<std::span<const float>> pages;
    for (size_t i = 0; i < memory.slabs.size(); ++i) {
        bool shared = w.description.shared != Shared::none && i + 1 == memory.slabs.size();
        uint64_t page = (shared ? w.shared : w.routed).bytes() / 4;
        std::span<const float> all = memory.slabs[i];
        for (uint64_t at = 0; at + page <= all.size(); at += page) pages.push_back(all.subspan(at, page));
    }
    return pages;
}

// Appends one tensor to the source.
void add(LayerSource& source, std::vector<float>& values, std::string name, const std::vector<uint64_t>& shape,
         std::span<const float> memory, uint64_t offset) {
    uint64_t count = 1;
    for (uint64_t extent : shape) count *= extent;
    uint64_t at = values.size();
    values.resize(at + count);
    std::span<float> out = std::span(values).subspan(at);
    bool panels = shape.size() == 2;
    if (panels)
        unpackPanels(memory.subspan(offset), uint32_t(shape[0]), uint32_t(shape[1]), out);
    else
        std::copy_n(memory.begin() + ptrdiff_t(offset), count, out.begin());
    source.tensors.push_back({std::move(name), WeightFormat::f32, shape, at * 4, count * 4});
}

}  // namespace

void unpackPanels(std::span<const float> panels, uint32_t rows, uint32_t cols, std::span<float> out) {
    for (uint32_t r = 0; r < rows; ++r)
        for (uint32_t c = 0; c < cols; ++c)
            out[size_t{r} * cols + c] = panels[(size_t{r / kPanel} * cols + c) * kPanel + r % kPanel];
}

void packPanels(std::span<const float> values, uint32_t rows, uint32_t cols, std::span<float> panels) {
    std::fill(panels.begin(), panels.end(), 0.0f);
    for (uint32_t r = 0; r < rows; ++r)
        for (uint32_t c = 0; c < cols; ++c)
            panels[(size_t{r / kPanel} * cols + c) * kPanel + r % kPanel] = values[size_t{r} * cols + c];
}

Result<LayerMemory> downloadWeights(Engine& engine, const Weights& w) {
    LayerMemory memory;
    for (const Buffer& slab : w.slabs) {
        VKMOE_TRY(words, download<float>(engine.device(), slab, slab.size() / 4));
        memory.slabs.push_back(std::move(words));
    }
    VKMOE_TRY(router, download<float>(engine.device(), w.router, w.router.size() / 4));
    memory.shared_router.assign(router.begin() + ptrdiff_t(w.shared_router / 4), router.end());
    memory.router = std::move(router);
    return memory;
}

LayerSource readBack(const Weights& weights, const LayerMemory& memory, const std::string& name, bool gradients) {
    const Description& d = weights.description;
    auto pages = pagesOf(weights, memory);
    LayerSource source;
    source.description = d;
    std::vector<float> values;
    for (TensorRole role : formats::allRoles()) {
        if (!isPresent(role, d) || (gradients && role == TensorRole::selection_bias)) continue;
        const formats::RoleShape& shape = shapeOf(role);
        uint64_t offset = offsetOf(role, weights);
        auto extents = valueShape(role, d);
        if (inRouterBuffer(role))
            add(source, values, shape.name(), extents, memory.router, offset);
        else if (role == TensorRole::shared_router_weight)
            add(source, values, shape.name(), extents, memory.shared_router, offset);
        else if (!shape.routed)
            add(source, values, shape.name(), extents, pages[d.experts], offset);
        else
            for (uint32_t e = 0; e < d.experts; ++e)
                add(source, values, shape.expertName(e), extents, pages[e], offset);
    }
    auto bytes = std::as_bytes(std::span(values));
    source.bytes = memorySource(name, {bytes.begin(), bytes.end()});
    source.index();
    return source;
}

}  // namespace v1
}  // namespace vkmoe
