#include "engine/moe/expert_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <new>

#include "engine/formats/check_values.h"
#include "engine/moe/tensor_slice.h"
#include "host/cpu/float_environment.h"
#include "vkmoe/kernels.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kSliceBytes = uint64_t{1} << 20;

CpuKernel fastest(const KernelCode& code) { return code.simd ? code.simd : code.cpu; }

// What is asked for of a matrix at once, or all of a vector.
std::vector<TensorSlice> slicesOf(const PagePart& part) {
    return part.is_matrix ? sliceMatrix(*part.tensor, kSliceBytes) : std::vector{wholeVector(*part.tensor)};
}

uint64_t packedBytes(const PagePart& part, uint32_t rows) {
    if (!part.is_matrix) return uint64_t{rows} * 4;
    return packedWords(rows, uint32_t(part.tensor->shape[1]), part.widen ? WeightFormat::f32 : part.tensor->format) * 4;
}

// Whether each tensor of an expert is followed by that of the next one (or by another one's rows, if two are fused).
bool areStacked(const std::vector<std::vector<PagePart>>& experts) {
    for (size_t e = 1; e < experts.size(); ++e)
        for (size_t i = 0; i < experts[e].size(); ++i) {
            const formats::TensorRange &before = *experts[e - 1][i].tensor, &next = *experts[e][i].tensor;
            if (next.offset <= before.offset || next.offset - before.offset > 2 * before.bytes) return false;
        }
    return true;
}

// A slice that was read, `from`, to its place in the page.
void transform(const PagePart& part, const TensorSlice& slice, std::byte* from, std::byte* to, U32 status) {
    const auto format = uint32_t(slice.tensor->format);
    const U32 source{reinterpret_cast<uint32_t*>(from)}, scales{reinterpret_cast<uint32_t*>(from + slice.scalesAt())};
    if (!part.is_matrix) {
        ApplyRule params{source, {reinterpret_cast<float*>(to)}, status, slice.rows, 0};
        fastest(kernels().apply_rule)(&params, words({.weight_format = format}),
                                      {0, slice.rows / kWorkgroup + uint64_t{1}});
        return;
    }
    PackPanels params{
        source, scales, {reinterpret_cast<uint32_t*>(to)}, status, slice.rows, slice.cols, slice.tensor->row_step, 0};
    Constants constants{
        .weight_format = format, .widen = part.widen && format != kF32, .nibbles = uint32_t(slice.tensor->nibbles)};
    uint64_t target = packedBytes(part, slice.rows) / 4;
    fastest(kernels().pack_panels)(&params, words(constants), {0, (target + kWorkgroup - 1) / kWorkgroup});
}

// One tensor into its place, and zeros from there to the next part's place.
Result<void> readTensor(const formats::LayerSource& source, const PagePart& part, std::span<std::byte> place,
                        std::vector<std::byte>& scratch) {
    FloatEnvironment environment;
    uint64_t at = 0, bad = 0, first = 0;
    for (const TensorSlice& slice : slicesOf(part)) {
        if (scratch.size() < slice.bytes()) scratch.resize(slice.bytes());
        VKMOE_CHECK(slice.read(*source.bytes, scratch));
        uint32_t status[2] = {};
        transform(part, slice, scratch.data(), place.data() + at, {status});
        if (bad == 0 && status[0] != 0) first = slice.element(~status[1]);
        bad += status[0];
        at += packedBytes(part, slice.rows);
    }
    if (bad != 0) return formats::notFinite(*source.bytes, *part.tensor, bad, first);
    std::fill(place.begin() + ptrdiff_t(at), place.end(), std::byte{0});
    return {};
}

}  // namespace

Result<void> ExpertStore::describe(Layer& layer, bool widen) {
    const formats::LayerSource& source = layer.source;
    auto valid = validate(source.description);
    if (!valid) return Error{valid.error().code, fmt::format("{}: {}", source.bytes->name(), valid.error().detail)};
    VKMOE_TRY(formats, readFormats(source, expertPrefix(0)));
    layer.shape = routedShape(source.description, widen ? WeightFormat::f32 : formats.packedUp(),
                              widen ? WeightFormat::f32 : formats.down);
    layer.layout = layoutPage(layer.shape);
    for (uint32_t e = 0; e < source.description.experts; ++e) {
        VKMOE_TRY(parts, expertParts(source, expertPrefix(e), formats, layer.shape, layer.layout));
        layer.parts.push_back(std::move(parts));
    }
    layer.stacked = areStacked(layer.parts);
    for (const PagePart& part : layer.parts.front())
        for (const TensorSlice& slice : slicesOf(part)) layer.source_bytes += slice.storedBytes(*source.bytes);
    return {};
}

Result<std::unique_ptr<ExpertStore>> ExpertStore::create(std::vector<formats::LayerSource> layers, bool widen) {
    auto store = std::make_unique<ExpertStore>();
    store->layers_.resize(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        Layer& layer = store->layers_[i];
        layer.source = std::move(layers[i]);
        layer.first_page = store->pages();
        VKMOE_CHECK(describe(layer, widen));
        store->layer_of_.insert(store->layer_of_.end(), layer.parts.size(), uint32_t(i));
    }
    return store;
}

const std::vector<PagePart>& ExpertStore::partsOf(PageId page) const {
    assert(page < pages());
    const Layer& layer = layerOf(page);
    return layer.parts[page - layer.first_page];
}

uint64_t ExpertStore::sourceBytes(PageId page) const { return layerOf(page).source_bytes; }

void ExpertStore::announce(PageId page) const try {
    for (const PagePart& part : partsOf(page))
        for (const TensorSlice& slice : slicesOf(part)) slice.announce(*layerOf(page).source.bytes);
} catch (const std::bad_alloc&) {  // it is read without
}

Result<void> ExpertStore::read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const {
    for (uint32_t part = 0; part < partsOf(page).size(); ++part) VKMOE_CHECK(readPart(page, part, into, scratch));
    return {};
}

PageStore::Row ExpertStore::row(PageId page) const {
    const Layer& layer = layerOf(page);
    const PageId end = layer.stacked ? layer.first_page + PageId(layer.parts.size()) : page + 1;
    return {end, uint32_t(partsOf(page).size())};
}

Result<void> ExpertStore::readPart(PageId page, uint32_t part, std::span<std::byte> into,
                                   std::vector<std::byte>& scratch) const try {
    assert(into.size() == pageBytes(page));
    const std::vector<PagePart>& parts = partsOf(page);
    const bool is_last = part + 1 == parts.size();
    const uint64_t begin = part == 0 ? 0 : uint64_t{parts[part].at} * 4;
    const uint64_t end = is_last ? into.size() : uint64_t{parts[part + 1].at} * 4;
    return readTensor(layerOf(page).source, parts[part], into.subspan(begin, end - begin), scratch);
} catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory,
                 fmt::format("{}: no memory to read an expert", layerOf(page).source.bytes->name())};
}

}  // namespace v1
}  // namespace vkmoe
