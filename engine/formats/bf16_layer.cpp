#include "engine/formats/bf16_layer.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "shaders/exact_math.h"

namespace vkmoe::formats {
namespace {

uint16_t rounded(float value) {
    uint32_t bits = bf16_encode(value);
    return magnitude_bits(operand_rule_bf16(bf16_decode(bits))) == 0 ? 0 : uint16_t(bits);
}

float decoded(const std::byte* at, WeightFormat format) {
    uint32_t bits = 0;
    std::memcpy(&bits, at, formatBytes(format, 1));
    return format == WeightFormat::f32 ? uintBitsToFloat(bits) : f16_decode(bits);
}

// A source's bytes, and behind them, as often as needed, its values as bf16. Where the values of one tensor lie in the
// source is where its view begins: view n is of tensor n.
class Bf16Views final : public ByteSource {
public:
    explicit Bf16Views(std::shared_ptr<const ByteSource> source) : source_(std::move(source)) {}

    // Makes `tensor` a view of itself.
    void add(TensorRange& tensor) {
        uint64_t begin = size();
        views_.push_back({begin, tensor.bytes / formatBytes(tensor.format, 1) * 2, tensor.offset, tensor.format});
        tensor.offset = begin;
        tensor.bytes = views_.back().bytes;
        tensor.format = WeightFormat::bf16;
    }

    const std::string& name() const override { return source_->name(); }
    const std::string& nameAt(uint64_t offset) const override {
        return source_->nameAt(offset < source_->size() ? offset : viewAt(offset).source);
    }
    uint64_t size() const override {
        return views_.empty() ? source_->size() : views_.back().begin + views_.back().bytes;
    }

    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        if (into.empty()) return {};
        if (offset < source_->size()) return source_->read(offset, into);
        const View& view = viewAt(offset);
        assert(offset % 2 == view.begin % 2 && into.size() % 2 == 0 && offset + into.size() <= view.begin + view.bytes);
        uint64_t width = formatBytes(view.format, 1), from = view.source + (offset - view.begin) / 2 * width;
        std::array<std::byte, 1 << 14> values;
        while (!into.empty()) {
            size_t count = std::min(into.size() / 2, values.size() / size_t(width));
            VKMOE_CHECK(source_->read(from, std::span(values).first(count * width)));
            for (size_t i = 0; i < count; ++i) {
                uint16_t bits = rounded(decoded(&values[i * width], view.format));
                std::memcpy(&into[2 * i], &bits, 2);
            }
            from += count * width;
            into = into.subspan(2 * count);
        }
        return {};
    }

    void announce(uint64_t offset, uint64_t bytes) const override {
        const auto [from, count] = stored(offset, bytes);
        if (count != 0) source_->announce(from, count);
    }
    void forget(uint64_t offset, uint64_t bytes) const override {
        const auto [from, count] = stored(offset, bytes);
        if (count != 0) source_->forget(from, count);
    }

    uint64_t storedBytes(uint64_t offset, uint64_t bytes) const override { return stored(offset, bytes).second; }

private:
    struct View {
        uint64_t begin, bytes;  // here
        uint64_t source;        // where its values begin
        WeightFormat format;    // of them
    };

    // Where the bytes of a range are kept, and how many.
    std::pair<uint64_t, uint64_t> stored(uint64_t offset, uint64_t bytes) const {
        if (offset < source_->size() || bytes == 0) return {offset, bytes};
        const View& view = viewAt(offset);
        const uint64_t width = formatBytes(view.format, 1);
        return {view.source + (offset - view.begin) / 2 * width, bytes / 2 * width};
    }

    const View& viewAt(uint64_t offset) const {
        return *std::prev(std::upper_bound(views_.begin(), views_.end(), offset,
                                           [](uint64_t at, const View& view) { return at < view.begin; }));
    }

    std::shared_ptr<const ByteSource> source_;
    std::vector<View> views_;
};

bool isMatrixOfExpert(const TensorRange& tensor) {
    return tensor.shape.size() == 2 && (tensor.name.starts_with("experts.") || tensor.name.starts_with("shared."));
}

}  // namespace

LayerSource asBf16(LayerSource layer) {
    auto views = std::make_shared<Bf16Views>(layer.bytes);
    for (TensorRange& tensor : layer.tensors) {
        if (!isMatrixOfExpert(tensor) || tensor.format == WeightFormat::bf16) continue;
        assert(tensor.format != WeightFormat::mxfp4 && tensor.row_step == 1);
        views->add(tensor);
    }
    layer.bytes = std::move(views);
    return layer;
}

}  // namespace vkmoe::formats
