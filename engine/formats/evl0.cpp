#include "engine/formats/evl0.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "engine/formats/checked.h"
#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0_view.h"
#include "engine/formats/fp16_truncate.h"
#include "engine/formats/lm_parameters.h"
#include "engine/formats/moe0.h"

namespace vkmoe::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "EVL0 data are copied as they are");

constexpr uint32_t kMagic = 0x45564c30;
constexpr uint32_t kSwappedMagic = 0x304c5645;
constexpr uint32_t kFloat32 = 1, kFloat16 = 2;

struct Header {
    uint32_t magic, version, vocab_size, model_dim, layers, conv_kernel, hidden_dim, experts, top_k;

    LmConfig config() const { return {vocab_size, model_dim, layers, conv_kernel, hidden_dim, experts, top_k}; }
    bool fp16() const { return version == kFloat16; }
    bool known() const { return version == kFloat32 || version == kFloat16; }
    const char* data() const { return fp16() ? "float16" : "float32"; }
};
static_assert(sizeof(Header) == kEvl0HeaderBytes);

std::string dimensions(const LmConfig& config) {
    return fmt::format("vocabSize {}, dModel {}, numLayers {}, convKernel {}, hiddenDim {}, numExperts {}",
                       config.vocab_size, config.model_dim, config.layers, config.conv_kernel, config.hidden_dim,
                       config.experts);
}

// Header and parameters. A valid config's cannot overflow.
uint64_t bodyBytes(const LmConfig& config, bool fp16) {
    return kEvl0HeaderBytes + parameterCount(config) * (fp16 ? 2 : 4);
}

// --------------------------------------------------------------------------------------------------------- reading

Result<void> checkMagic(const ByteSource& file, uint32_t magic) {
    if (magic == kMagic) return {};
    if (magic == kSwappedMagic)
        return inputError(file.name(), fmt::format("magic is {:#010x}, that of EVL0 with its bytes reversed; EVL0 "
                                                   "files are little-endian",
                                                   magic));
    return inputError(file.name(), fmt::format("magic is {:#010x}; EVL0 files start with {:#010x}", magic, kMagic));
}

Result<Header> readHeader(const ByteSource& file) {
    if (file.size() == 0) return inputError(file.name(), "is empty; an EVL0 file starts with a header of 36 bytes");
    std::array<std::byte, kEvl0HeaderBytes> bytes = {};
    const uint64_t available = std::min(file.size(), kEvl0HeaderBytes);
    VKMOE_CHECK(readField(file, "the header", 0, std::span(bytes).first(available)));
    if (available >= 4) VKMOE_CHECK(checkMagic(file, littleU32(bytes)));
    if (available < kEvl0HeaderBytes)
        return inputError(file.name(), fmt::format("length is {} bytes; the header of an EVL0 file has 36", available));
    Header header = {};
    std::memcpy(&header, bytes.data(), sizeof header);
    return header;
}

Result<void> checkHeader(const ByteSource& file, const Header& header, bool compat) {
    if (!header.known() && !compat)
        return inputError(file.name(), fmt::format("version is {}; EVL0 files have version 1 (float32) or 2 (float16)",
                                                   header.version));
    if (const auto valid = validate(header.config()); !valid) return inFile(file.name(), valid.error());
    return {};
}

// The file's length says whether it is what its header tells; with a trailer or, for compat, without.
Error lengthError(const ByteSource& file, const Header& header) {
    const LmConfig config = header.config();
    const uint64_t expected = bodyBytes(config, header.fp16()) + kTrailerBytes;
    const uint64_t other = bodyBytes(config, !header.fp16()) + kTrailerBytes;
    std::string detail = fmt::format("length is {} bytes; {} in version {} ({}) make exactly {} with the trailer",
                                     file.size(), dimensions(config), header.version, header.data(), expected);
    if (file.size() == other)
        detail += fmt::format(", and {} is that of {}", other, header.fp16() ? "float32" : "float16");
    if (file.size() == expected - kTrailerBytes) detail += "; the trailer with the CRC-32 is missing";
    return inputError(file.name(), detail);
}

// Compat: the float32 file that a short one would have been, had its missing end been that of a cold start.
Result<void> complete(LmSource& model, uint64_t body, uint64_t expected, uint64_t limit) {
    const ByteSource& file = *model.bytes;
    if (body < kEvl0HeaderBytes || body % 4 != 0)
        return inputError(file.name(), fmt::format("its parameters end within a number, after {} bytes; {} make {}",
                                                   body, dimensions(model.config), expected));
    if (expected - body > limit)
        return inputError(file.name(), fmt::format("its parameters end after {} bytes; {} make {}, and at most {} "
                                                   "missing bytes are completed",
                                                   body, dimensions(model.config), expected, limit));
    VKMOE_TRY(parameters, initialLm(model.config));
    VKMOE_TRY(bytes, writeEvl0(model.config, parameters));
    VKMOE_CHECK(file.read(kEvl0HeaderBytes, std::span(bytes).subspan(kEvl0HeaderBytes, body - kEvl0HeaderBytes)));
    bytes.resize(expected);  // the trailer no longer fits them
    model.warnings.push_back(
        fmt::format("{}: the file ends after {} of {} parameters; the others are those of a cold start, seed {}",
                    file.name(), (body - kEvl0HeaderBytes) / 4, (expected - kEvl0HeaderBytes) / 4, kLmDefaultSeed));
    model.bytes = memorySource(file.name(), std::move(bytes));
    return {};
}

// Compat: what a body of another length, or a missing trailer, still gives.
Result<void> acceptBody(LmSource& model, const Header& header, const Trailer& trailer, uint64_t limit) {
    const std::string& file = model.bytes->name();
    if (!header.known())
        model.warnings.push_back(fmt::format("{}: version is {}; read as float32", file, header.version));
    if (!trailer.present)
        model.warnings.push_back(file + ": there is no trailer with a CRC-32, so damage cannot be seen");
    const uint64_t expected = bodyBytes(model.config, header.fp16());
    if (trailer.body > expected)
        model.warnings.push_back(
            fmt::format("{}: the {} bytes after the parameters are ignored", file, trailer.body - expected));
    if (trailer.body >= expected) return {};
    if (header.fp16()) return lengthError(*model.bytes, header);
    return complete(model, trailer.body, expected, limit);
}

std::vector<TensorRange> listTensors(const LmConfig& config, WeightFormat format) {
    std::vector<TensorRange> tensors;
    for (LmTensor& tensor : lmTensors(config))
        tensors.push_back({std::move(tensor.name), format, std::move(tensor.shape),
                           kEvl0HeaderBytes + formatBytes(format, tensor.first), formatBytes(format, tensor.count)});
    return tensors;
}

// --------------------------------------------------------------------------------------------------------- writing

// A finite number below 2^63, as every reader here wants it, also after its conversion.
bool canBeStored(float value, bool fp16) {
    const uint32_t limit = fp16 ? 127 + 16 : 127 + 63;
    return (std::bit_cast<uint32_t>(value) >> 23 & 255) < limit;
}

Error storeError(const LmConfig& config, std::span<const float> parameters, uint64_t index, bool fp16) {
    for (const LmTensor& tensor : lmTensors(config))
        if (index < tensor.first + tensor.count)
            return {ErrorCode::bad_input,
                    fmt::format("{} holds {} at element {}, which a file of {} cannot keep", tensor.name,
                                parameters[index], index - tensor.first, fp16 ? "float16" : "float32")};
    return {ErrorCode::internal, "a parameter belongs to no tensor"};
}

Result<void> checkParameters(const LmConfig& config, std::span<const float> parameters, bool fp16) {
    VKMOE_CHECK(validate(config));
    if (parameters.size() != parameterCount(config))
        return Error{ErrorCode::bad_input, fmt::format("{} have {} parameters, and {} were given", dimensions(config),
                                                       parameterCount(config), parameters.size())};
    for (uint64_t i = 0; i < parameters.size(); ++i)
        if (!canBeStored(parameters[i], fp16)) return storeError(config, parameters, i, fp16);
    return {};
}

Header headerOf(const LmConfig& config, bool fp16) {
    return {kMagic,        fp16 ? kFloat16 : kFloat32, config.vocab_size, config.model_dim,
            config.layers, config.conv_kernel,         config.hidden_dim, config.experts,
            config.top_k};
}

// Header, parameters and trailer, one after the other.
class View : public ByteSource {
public:
    View(std::string name, const LmConfig& config, std::span<const float> parameters)
        : name_(std::move(name)), header_(headerOf(config, false)), parameters_(std::as_bytes(parameters)) {
        trailer_ = trailerOf(crc32(parameters_, crc32(header())));
    }

    const std::string& name() const override { return name_; }
    uint64_t size() const override { return kEvl0HeaderBytes + parameters_.size() + kTrailerBytes; }

    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        VKMOE_CHECK(checkRange(offset, into.size()));
        for (const std::span<const std::byte> part : {header(), parameters_, std::span<const std::byte>(trailer_)}) {
            if (offset >= part.size()) {
                offset -= part.size();
                continue;
            }
            const auto some = part.subspan(offset, std::min(part.size() - offset, into.size()));
            std::copy(some.begin(), some.end(), into.begin());
            into = into.subspan(some.size());
            offset = 0;
        }
        return {};
    }

private:
    std::span<const std::byte> header() const { return std::as_bytes(std::span(&header_, 1)); }

    std::string name_;
    Header header_;
    std::span<const std::byte> parameters_;
    std::array<std::byte, kTrailerBytes> trailer_ = {};
};

}  // namespace

bool looksLikeEvl0(std::span<const std::byte> first_bytes) {
    return first_bytes.size() >= 4 && littleU32(first_bytes) == kMagic;
}

Result<LmSource> readEvl0(std::shared_ptr<const ByteSource> file, Evl0Options options) {
    VKMOE_TRY(header, readHeader(*file));
    VKMOE_CHECK(checkHeader(*file, header, options.compat));
    VKMOE_TRY(trailer, readTrailer(*file));
    LmSource model;
    model.config = header.config();
    model.format = header.fp16() ? WeightFormat::f16 : WeightFormat::f32;
    const bool exact = trailer.present && trailer.body == bodyBytes(model.config, header.fp16());
    if (!exact && !options.compat) return lengthError(*file, header);
    if (trailer.present) VKMOE_CHECK(checkTrailer(*file, trailer));
    model.bytes = std::move(file);
    if (options.compat) VKMOE_CHECK(acceptBody(model, header, trailer, options.max_completed_bytes));
    model.tensors = listTensors(model.config, model.format);
    return model;
}

Result<std::shared_ptr<const ByteSource>> evl0View(std::string name, const LmConfig& config,
                                                   std::span<const float> parameters) {
    VKMOE_CHECK(checkParameters(config, parameters, false));
    return std::shared_ptr<const ByteSource>(std::make_shared<View>(std::move(name), config, parameters));
}

Result<std::vector<std::byte>> writeEvl0(const LmConfig& config, std::span<const float> parameters, bool fp16) {
    VKMOE_CHECK(checkParameters(config, parameters, fp16));
    const Header header = headerOf(config, fp16);
    VKMOE_TRY(bytes, zeroBytes(bodyBytes(config, fp16), kTrailerBytes));
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!fp16) std::memcpy(&bytes[kEvl0HeaderBytes], parameters.data(), parameters.size_bytes());
    for (uint64_t i = 0; fp16 && i < parameters.size(); ++i) {
        const uint16_t bits = fp16TruncateEncode(parameters[i]);
        std::memcpy(&bytes[kEvl0HeaderBytes + 2 * i], &bits, sizeof bits);
    }
    appendTrailer(bytes);
    return bytes;
}

}  // namespace vkmoe::formats
