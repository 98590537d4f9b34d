#include "engine/formats/moe0.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <new>
#include <numbers>
#include <string>
#include <utility>

#include "engine/formats/checked.h"
#include "engine/formats/fp16_truncate.h"
#include "host/cpu/float_environment.h"

namespace vkmoe::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "MoE0 data are copied as they are");

constexpr uint32_t kMagic = 0x4d6f4530;
constexpr uint32_t kSwappedMagic = 0x30456f4d;
constexpr uint32_t kEvl0Magic = 0x45564c30;
constexpr uint32_t kFloat32 = 1, kFloat16 = 2;

struct Header {
    uint32_t magic, version, model_dim, hidden_dim, experts, top_k;

    Moe0Config config() const { return {model_dim, hidden_dim, experts, top_k}; }
};
static_assert(sizeof(Header) == kMoe0HeaderBytes);

Error inputError(const ByteSource& file, const std::string& detail) { return formats::inputError(file.name(), detail); }

std::string dimensions(const Moe0Config& config) {
    return fmt::format("modelDim {}, hiddenDim {}, numExperts {}", config.model_dim, config.hidden_dim, config.experts);
}

Result<void> checkFields(const Moe0Config& config) {
    const auto zero = [](const char* field) { return refused(fmt::format("{} is 0; it must be at least 1", field)); };
    if (config.model_dim == 0) return zero("modelDim");
    if (config.hidden_dim == 0) return zero("hiddenDim");
    if (config.experts == 0) return zero("numExperts");
    if (config.top_k > config.experts)
        return refused(
            fmt::format("topK is {}; it must be at most numExperts, which is {}", config.top_k, config.experts));
    if (config.top_k == 0) return zero("topK");
    return {};
}

// The length of a file, or nothing where 64 bits cannot count it.
std::optional<uint64_t> fileBytes(uint64_t parameters, bool fp16) {
    const std::optional<uint64_t> bytes = checkedMul(parameters, fp16 ? 2 : 4);
    return bytes ? checkedAdd(*bytes, kMoe0HeaderBytes) : bytes;
}

// --------------------------------------------------------------------------------------------------------- reading

Result<void> checkMagic(const ByteSource& file, uint32_t magic) {
    if (magic == kMagic) return {};
    if (magic == kEvl0Magic) return inputError(file, "this is an EvermindLM checkpoint (EVL0), not a MoE0 layer");
    if (magic == kSwappedMagic)
        return inputError(file, fmt::format("magic is {:#010x}, that of MoE0 with its bytes reversed; "
                                            "MoE0 files are little-endian",
                                            magic));
    return inputError(file, fmt::format("magic is {:#010x}; MoE0 files start with {:#010x}", magic, kMagic));
}

Result<Header> readHeader(const ByteSource& file) {
    if (file.size() == 0) return inputError(file, "is empty; a MoE0 file starts with a header of 24 bytes");
    std::array<std::byte, kMoe0HeaderBytes> bytes = {};
    const uint64_t available = std::min(file.size(), kMoe0HeaderBytes);
    VKMOE_CHECK(readField(file, "the header", 0, std::span(bytes).first(available)));
    const auto field = [&](size_t i) { return littleU32(std::span(bytes).subspan(4 * i)); };
    const Header header = {field(0), field(1), field(2), field(3), field(4), field(5)};
    if (available >= sizeof header.magic) VKMOE_CHECK(checkMagic(file, header.magic));
    if (available < kMoe0HeaderBytes)
        return inputError(file, fmt::format("length is {} bytes; the header of a MoE0 file has 24", available));
    return header;
}

// Lists tensors one after the other.
class TensorList {
public:
    TensorList(WeightFormat format, uint64_t offset, size_t tensors) : format_(format), offset_(offset) {
        tensors_.reserve(tensors);
    }

    void add(std::string name, std::vector<uint64_t> shape) {
        uint64_t bytes = format_ == WeightFormat::f16 ? 2 : 4;
        for (uint64_t size : shape) bytes *= size;  // cannot overflow: the file has these bytes
        tensors_.push_back({std::move(name), format_, std::move(shape), offset_, bytes});
        offset_ += bytes;
    }
    void addExpert(const std::string& prefix, uint64_t model_dim, uint64_t hidden_dim) {
        add(prefix + ".up.weight", {hidden_dim, model_dim});
        add(prefix + ".up.bias", {hidden_dim});
        add(prefix + ".down.weight", {model_dim, hidden_dim});
        add(prefix + ".down.bias", {model_dim});
    }
    std::vector<TensorRange> take() { return std::move(tensors_); }

private:
    WeightFormat format_;
    uint64_t offset_;
    std::vector<TensorRange> tensors_;
};

std::vector<TensorRange> listTensors(const Moe0Config& config, WeightFormat format, uint64_t offset) {
    TensorList list(format, offset, 5 + size_t{4} * config.experts);
    list.add("router.weight", {config.experts, config.model_dim});
    list.addExpert("shared", config.model_dim, config.hidden_dim);
    for (uint32_t expert = 0; expert < config.experts; ++expert)
        list.addExpert(fmt::format("experts.{}", expert), config.model_dim, config.hidden_dim);
    return list.take();
}

const char* dataName(bool fp16) { return fp16 ? "float16" : "float32"; }

Error lengthError(const ByteSource& file, const Header& header, bool fp16, uint64_t parameters, uint64_t expected) {
    std::string detail = fmt::format("length is {} bytes; {} in version {} ({}) make exactly {}", file.size(),
                                     dimensions(header.config()), header.version, dataName(fp16), expected);
    if (file.size() == fileBytes(parameters, !fp16))
        detail += fmt::format(", and {} is that of {}", file.size(), dataName(!fp16));
    return inputError(file, detail);
}

// Compat: the float32 file that a short one would have been, had its missing end been that of a cold start.
Result<std::vector<std::byte>> complete(const ByteSource& file, const Moe0Config& config, uint64_t expected,
                                        uint64_t limit) {
    const uint64_t missing = expected - file.size();
    if (file.size() % 4 != 0)
        return inputError(file, fmt::format("length is {} bytes, which ends within a number; {} make exactly {}",
                                            file.size(), dimensions(config), expected));
    if (missing > limit)
        return inputError(
            file, fmt::format("length is {} bytes; {} make exactly {}, and at most {} missing bytes are completed",
                              file.size(), dimensions(config), expected, limit));
    Result<std::vector<std::byte>> bytes = initMoe0(config);
    if (!bytes) return inFile(file.name(), bytes.error());
    const uint64_t available = file.size() - kMoe0HeaderBytes;
    VKMOE_CHECK(file.read(kMoe0HeaderBytes, std::span(*bytes).subspan(kMoe0HeaderBytes, available)));
    return bytes;
}

// Compat: a file whose length was wrong, made right.
struct Accepted {
    std::shared_ptr<const ByteSource> bytes;
    std::string warning;
};

Result<Accepted> acceptLength(std::shared_ptr<const ByteSource> file, const Header& header, uint64_t expected,
                              uint64_t limit) {
    if (file->size() > expected)
        return Accepted{file, fmt::format("{}: the {} bytes after the parameters are ignored", file->name(),
                                          file->size() - expected)};
    VKMOE_TRY(bytes, complete(*file, header.config(), expected, limit));
    return Accepted{memorySource(file->name(), std::move(bytes)),
                    fmt::format("{}: the file ends after {} of {} parameters; the others are those of a cold start, "
                                "seed {}",
                                file->name(), (file->size() - kMoe0HeaderBytes) / 4, (expected - kMoe0HeaderBytes) / 4,
                                kMoe0DefaultSeed)};
}

// --------------------------------------------------------------------------------------------------------- writing

// A file's bytes, filled from front to back; what is skipped is zero.
class FileImage {
public:
    static Result<FileImage> create(const Moe0Config& config, bool fp16) try {
        VKMOE_TRY(parameters, moe0ParameterCount(config));
        if (parameters > kMoe0MaxParameters)
            return refused(fmt::format("{} make {} parameters; at most {} are held in memory", dimensions(config),
                                       parameters, kMoe0MaxParameters));
        return FileImage(config, *fileBytes(parameters, fp16), fp16);
    } catch (const std::bad_alloc&) {
        return Error{ErrorCode::out_of_memory, fmt::format("no memory for the parameters of {}", dimensions(config))};
    }

    void put(float value) {
        if (fp16_)
            append(fp16TruncateEncode(value));
        else
            append(value);
    }
    void putNormal(SeededRng& rng, double deviation, uint64_t count) {
        for (uint64_t i = 0; i < count; ++i) put(static_cast<float>(rng.normal(deviation)));
    }
    void skip(uint64_t count) { at_ += count * (fp16_ ? 2 : 4); }
    std::vector<std::byte> take() {
        assert(at_ == bytes_.size());
        return std::move(bytes_);
    }

private:
    FileImage(const Moe0Config& config, uint64_t bytes, bool fp16) : bytes_(bytes), fp16_(fp16) {
        const Header header = {
            kMagic, fp16 ? kFloat16 : kFloat32, config.model_dim, config.hidden_dim, config.experts, config.top_k};
        append(header);
    }

    template <class Value>
    void append(Value value) {
        std::memcpy(bytes_.data() + at_, &value, sizeof value);
        at_ += sizeof value;
    }

    std::vector<std::byte> bytes_;
    size_t at_ = 0;
    bool fp16_;
};

}  // namespace

Description describe(const Moe0Config& config) {
    Description description;
    description.model_dim = config.model_dim;
    description.hidden_dim = config.hidden_dim;
    description.experts = config.experts;
    description.top_k = config.top_k;
    description.score = Score::softmax_selected;
    description.activation = Activation::relu;
    description.up_bias = description.down_bias = true;
    description.shared = Shared::plain;
    description.shared_order = SharedOrder::first;
    description.shared_dim = config.hidden_dim;
    description.shared_up_bias = description.shared_down_bias = true;
    return description;
}

bool looksLikeMoe0(std::span<const std::byte> first_bytes) {
    uint32_t magic = 0;
    if (first_bytes.size() < sizeof magic) return false;
    std::memcpy(&magic, first_bytes.data(), sizeof magic);
    return magic == kMagic;
}

Result<uint64_t> moe0ParameterCount(const Moe0Config& config) {
    VKMOE_CHECK(checkFields(config));
    const uint64_t weights = uint64_t{config.model_dim} * config.hidden_dim;
    const uint64_t biases = uint64_t{config.model_dim} + config.hidden_dim;
    const uint64_t router = uint64_t{config.experts} * config.model_dim;
    std::optional<uint64_t> count = checkedMul(weights, 2);
    if (count) count = checkedAdd(*count, biases);
    if (count) count = checkedMul(*count, uint64_t{config.experts} + 1);
    if (count) count = checkedAdd(*count, router);
    if (!count) return refused(fmt::format("{} make more parameters than 64 bits can count", dimensions(config)));
    return *count;
}

Result<LayerSource> readMoe0(std::shared_ptr<const ByteSource> file, Moe0Options options) {
    VKMOE_TRY(header, readHeader(*file));
    const bool fp16 = header.version == kFloat16;
    const bool known = fp16 || header.version == kFloat32;
    if (!known && !options.compat)
        return inputError(
            *file, fmt::format("version is {}; MoE0 files have version 1 (float32) or 2 (float16)", header.version));
    const Result<uint64_t> parameters = moe0ParameterCount(header.config());
    if (!parameters) return inFile(file->name(), parameters.error());
    const std::optional<uint64_t> expected = fileBytes(parameters.value(), fp16);
    if (!expected)
        return inputError(*file, fmt::format("{} make more bytes than 64 bits can count", dimensions(header.config())));

    const bool exact = file->size() == *expected;
    const bool acceptable = options.compat && (file->size() > *expected || !fp16);
    if (!exact && !acceptable) return lengthError(*file, header, fp16, parameters.value(), *expected);
    if (header.experts > kMoe0MaxExperts)
        return Error{ErrorCode::unsupported, fmt::format("{}: numExperts is {}; at most {} are supported", file->name(),
                                                         header.experts, kMoe0MaxExperts)};

    // The length first: only a file that has the parameters is worth a list of them.
    std::vector<std::string> warnings;
    if (!known) warnings.push_back(fmt::format("{}: version is {}; read as float32", file->name(), header.version));
    if (!exact) {
        VKMOE_TRY(accepted, acceptLength(file, header, *expected, options.max_completed_bytes));
        file = std::move(accepted.bytes);
        warnings.push_back(std::move(accepted.warning));
    }
    LayerSource layer =
        moe0Layer(header.config(), file, kMoe0HeaderBytes, fp16 ? WeightFormat::f16 : WeightFormat::f32);
    layer.warnings = std::move(warnings);
    return layer;
}

LayerSource moe0Layer(const Moe0Config& config, std::shared_ptr<const ByteSource> bytes, uint64_t offset,
                      WeightFormat format) {
    LayerSource layer;
    layer.description = describe(config);
    layer.tensors = listTensors(config, format, offset);
    layer.bytes = std::move(bytes);
    layer.index();
    return layer;
}

Result<std::vector<std::byte>> writeMoe0(const Moe0Config& config, std::span<const float> parameters, bool fp16) {
    VKMOE_TRY(count, moe0ParameterCount(config));
    if (parameters.size() != count)
        return refused(
            fmt::format("{} have {} parameters, and {} were given", dimensions(config), count, parameters.size()));
    VKMOE_TRY(image, FileImage::create(config, fp16));
    for (float value : parameters) image.put(value);
    return image.take();
}

Result<std::vector<std::byte>> initMoe0(const Moe0Config& config, std::optional<uint32_t> seed, bool fp16) {
    FloatEnvironment environment;  // the samples are rounded to nearest, whatever the program around us set
    VKMOE_TRY(image, FileImage::create(config, fp16));
    SeededRng rng(seed.value_or(kMoe0DefaultSeed));
    const uint64_t model_dim = config.model_dim, hidden_dim = config.hidden_dim;
    const double deviation = std::sqrt(2.0 / config.model_dim);
    image.putNormal(rng, 0.02, config.experts * model_dim);
    for (uint64_t expert = 0; expert <= config.experts; ++expert) {  // the shared one comes first
        image.putNormal(rng, deviation, hidden_dim * model_dim);
        image.skip(hidden_dim);
        image.putNormal(rng, 0.02, model_dim * hidden_dim);
        image.skip(model_dim);
    }
    return image.take();
}

uint32_t toUint32(double number) {
    if (!std::isfinite(number)) return 0;
    const double reduced = std::fmod(std::trunc(number), 0x1p32);  // exact, with the sign of `number`
    return static_cast<uint32_t>(static_cast<int64_t>(reduced));
}

double SeededRng::uniform() {
    state_ = 1664525u * state_ + 1013904223u;
    return state_ * 0x1p-32;
}

double SeededRng::normal(double deviation) {
    const double radius = std::max(uniform(), 1e-12);
    const double angle = uniform();
    return deviation * std::sqrt(-2.0 * std::log(radius)) * std::cos(2.0 * std::numbers::pi * angle);
}

}  // namespace vkmoe::formats
