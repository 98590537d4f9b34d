#include "samples/vkmoe/bench_layer.h"

#include <fmt/format.h>

#include <cstring>
#include <random>

#include "shaders/exact_math.h"

namespace vkmoe::program {
namespace {

// One block of random weights in each format, read again and again; scales of MXFP4 are all 2^-6.
class RepeatedWeights final : public ByteSource {
public:
    static constexpr uint64_t kBlockBytes = 1 << 16;

    explicit RepeatedWeights(uint64_t size) : size_(size) {
        std::mt19937 random(1);
        for (uint32_t i = 0; i < kBlockBytes / 4; ++i) {
            float w = float(int32_t(random())) * 0x1p-36f;
            uint32_t half = f16_encode(w), brain = bf16_encode(w), whole = floatBitsToUint(w), codes = random();
            put(0, i, whole);
            put(1, i, half | f16_encode(-w) << 16);
            put(2, i, brain | bf16_encode(-w) << 16);
            put(3, i, codes);
            put(4, i, 0x79797979);
        }
    }
    // Where the weights of a format begin, and the scales.
    static uint64_t start(uint32_t kind) { return uint64_t{kind} << 48; }

    const std::string& name() const override { return name_; }
    uint64_t size() const override { return size_; }
    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        const auto& block = blocks_[offset >> 48];
        for (size_t done = 0; done < into.size();) {
            size_t at = (offset + done) % kBlockBytes, count = std::min(into.size() - done, kBlockBytes - at);
            std::memcpy(into.data() + done, block.data() + at, count);
            done += count;
        }
        return {};
    }

private:
    void put(size_t kind, uint32_t i, uint32_t word) {
        blocks_[kind].resize(kBlockBytes);
        std::memcpy(blocks_[kind].data() + i * 4, &word, 4);
    }

    std::string name_ = "bench layer";
    uint64_t size_;
    std::vector<std::byte> blocks_[5];
};

}  // namespace

formats::LayerSource benchLayer(const BenchOptions& o, WeightFormat format) {
    formats::LayerSource source;
    source.description = {.model_dim = o.model_dim,
                          .hidden_dim = o.hidden_dim,
                          .experts = o.experts,
                          .top_k = o.top_k,
                          .renormalize = true};
    auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols, WeightFormat as) {
        formats::TensorRange range{.name = name, .format = as, .shape = {rows, cols}};
        range.offset = RepeatedWeights::start(uint32_t(as));
        range.bytes = formats::formatBytes(as, rows * cols);
        if (as == WeightFormat::mxfp4) {
            range.scales_offset = RepeatedWeights::start(4);
            range.scales_bytes = rows * cols / 32;
        }
        source.tensors.push_back(std::move(range));
    };
    matrix("router.weight", o.experts, o.model_dim, WeightFormat::f32);
    for (uint32_t e = 0; e < o.experts; ++e) {
        matrix(fmt::format("experts.{}.gate.weight", e), o.hidden_dim, o.model_dim, format);
        matrix(fmt::format("experts.{}.up.weight", e), o.hidden_dim, o.model_dim, format);
        matrix(fmt::format("experts.{}.down.weight", e), o.model_dim, o.hidden_dim, format);
    }
    source.bytes = std::make_shared<RepeatedWeights>(uint64_t{1} << 62);
    source.index();
    return source;
}

}  // namespace vkmoe::program
