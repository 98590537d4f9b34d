#include "tests/moe/random_layer.h"

#include <cmath>
#include <cstring>
#include <random>

#include "shaders/exact_math.h"

namespace test {
namespace {

using namespace vkmoe;

class Builder {
public:
    Builder(WeightFormat format, uint32_t seed) : format_(format), random_(seed) {}

    std::vector<double> tensor(const std::string& name, std::vector<uint64_t> shape, double scale,
                               WeightFormat format) {
        uint64_t count = 1;
        for (uint64_t n : shape) count *= n;
        bytes_.resize((bytes_.size() + 3) / 4 * 4);
        formats::TensorRange range{.name = name, .format = format, .shape = std::move(shape), .offset = bytes_.size()};
        std::vector<double> values =
            format == WeightFormat::mxfp4 ? blocks(range, count, scale) : numbers(count, scale, format);
        if (format != WeightFormat::mxfp4) range.bytes = bytes_.size() - range.offset;
        source_.tensors.push_back(std::move(range));
        return values;
    }

    ReferenceExpert expert(const std::string& prefix, const Description& d, uint32_t hidden, bool gate_bias,
                           bool up_bias, bool down_bias) {
        ReferenceExpert e;
        double scale = 1 / std::sqrt(double(d.model_dim));
        if (d.gated()) e.gate = tensor(prefix + ".gate.weight", {hidden, d.model_dim}, 2 * scale, format_);
        e.up = tensor(prefix + ".up.weight", {hidden, d.model_dim}, 2 * scale, format_);
        e.down = tensor(prefix + ".down.weight", {d.model_dim, hidden}, 2 / std::sqrt(double(hidden)), format_);
        if (d.gated() && gate_bias) e.gate_bias = tensor(prefix + ".gate.bias", {hidden}, 0.1, WeightFormat::f32);
        if (up_bias) e.up_bias = tensor(prefix + ".up.bias", {hidden}, 0.1, WeightFormat::f32);
        if (down_bias) e.down_bias = tensor(prefix + ".down.bias", {d.model_dim}, 0.1, WeightFormat::f32);
        return e;
    }

    formats::LayerSource finish(const Description& d) {
        source_.description = d;
        source_.bytes = memorySource("random layer", std::move(bytes_));
        return std::move(source_);
    }

    double unit() { return double(int32_t(random_())) * 0x1p-31; }

private:
    std::vector<double> numbers(uint64_t count, double scale, WeightFormat format) {
        std::vector<double> values(count);
        for (double& value : values) value = double(store(float(unit() * scale), format));
        return values;
    }

    // Random codes under scales of about the right size; codes first, then the scales.
    std::vector<double> blocks(formats::TensorRange& range, uint64_t count, double scale) {
        static const double magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
        int exponent = int(std::floor(std::log2(scale / 4)));
        std::vector<double> values(count);
        std::vector<std::byte> scales(count / 32);
        bytes_.resize(bytes_.size() + count / 2);
        for (uint64_t i = 0; i < count; ++i) {
            if (i % 32 == 0) scales[i / 32] = std::byte(127 + exponent + int(random_() % 3) - 1);
            uint32_t code = random_() % 16;
            bytes_[range.offset + i / 2] |= std::byte(code << (i % 2 * 4));
            values[i] = std::ldexp(magnitudes[code % 8] * (code > 7 ? -1 : 1), int(scales[i / 32]) - 127);
        }
        range.bytes = count / 2;
        range.scales_offset = bytes_.size();
        range.scales_bytes = scales.size();
        bytes_.insert(bytes_.end(), scales.begin(), scales.end());
        return values;
    }

    float store(float value, WeightFormat format) {
        uint32_t bits = floatBitsToUint(value);
        if (format == WeightFormat::f16) bits = f16_encode(value);
        if (format == WeightFormat::bf16) bits = bf16_encode(value);
        size_t width = format == WeightFormat::f32 ? 4 : 2, at = bytes_.size();
        bytes_.resize(at + width);
        std::memcpy(bytes_.data() + at, &bits, width);
        return format == WeightFormat::f32 ? value : format == WeightFormat::f16 ? f16_decode(bits) : bf16_decode(bits);
    }

    WeightFormat format_;
    std::mt19937 random_;
    std::vector<std::byte> bytes_;
    formats::LayerSource source_;
};

}  // namespace

RandomLayer makeRandomLayer(const Description& d, WeightFormat format, uint32_t seed) {
    Builder builder(format, seed);
    RandomLayer layer;
    layer.reference.description = d;
    layer.reference.router = builder.tensor("router.weight", {d.experts, d.model_dim}, 1, WeightFormat::f32);
    if (d.router_bias) layer.reference.router_bias = builder.tensor("router.bias", {d.experts}, 1, WeightFormat::f32);
    if (d.selection_bias)
        layer.reference.selection_bias = builder.tensor("router.selection_bias", {d.experts}, 0.3, WeightFormat::f32);
    if (d.shared == Shared::sigmoid_gated)
        layer.reference.shared_router = builder.tensor("shared.router.weight", {d.model_dim}, 0.5, WeightFormat::bf16);
    if (d.shared != Shared::none)
        layer.reference.shared =
            builder.expert("shared", d, d.shared_dim, d.shared_gate_bias, d.shared_up_bias, d.shared_down_bias);
    for (uint32_t e = 0; e < d.experts; ++e)
        layer.reference.experts.push_back(
            builder.expert("experts." + std::to_string(e), d, d.hidden_dim, d.gate_bias, d.up_bias, d.down_bias));
    layer.source = builder.finish(d);
    return layer;
}

std::vector<float> randomTokens(uint32_t tokens, uint32_t model_dim, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<float> x(size_t{tokens} * model_dim);
    for (float& v : x) v = float(int32_t(random())) * 0x1p-31f;
    return x;
}

}  // namespace test
