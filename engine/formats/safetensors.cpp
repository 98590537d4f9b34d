#include "engine/formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "engine/formats/checked.h"
#include "engine/formats/strict_json.h"

namespace vkmoe::formats {
namespace {

struct Dtype {
    const char* name;
    uint32_t bits;
};
constexpr Dtype kDtypes[] = {{"F32", 32},    {"F16", 16},    {"BF16", 16},   {"U8", 8},      {"F64", 64},
                             {"I64", 64},    {"I32", 32},    {"I16", 16},    {"I8", 8},      {"U64", 64},
                             {"U32", 32},    {"U16", 16},    {"BOOL", 8},    {"C64", 64},    {"F8_E4M3", 8},
                             {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
constexpr size_t kMostDtypes = 200, kLongestDtype = 32;

Result<uint64_t> readHeaderBytes(const ByteSource& file) {
    if (file.size() == 0) return inputError(file.name(), "is empty; a safetensors file starts with 8 bytes of length");
    std::array<std::byte, 8> number = {};
    VKMOE_CHECK(readField(file, "the header length", 0, number));
    const uint64_t bytes = littleU64(number), rest = file.size() - number.size();
    if (bytes > kSafetensorsMaxHeader)
        return inputError(file.name(),
                          fmt::format("the header length is {}, at most {} are read", bytes, kSafetensorsMaxHeader));
    if (bytes > rest)
        return inputError(file.name(), fmt::format("the header length is {}, but {} bytes follow", bytes, rest));
    if (bytes < 2) return inputError(file.name(), fmt::format("the header length is {}, must be at least 2", bytes));
    std::array<std::byte, 1> first = {};
    VKMOE_CHECK(readField(file, "the header", 8, first));
    if (first[0] != std::byte{'{'})
        return inputError(file.name(),
                          fmt::format("the header starts with byte {}, must start with 123, an opening brace",
                                      std::to_integer<uint32_t>(first[0])));
    return bytes;
}

}  // namespace

uint32_t safetensorsBits(std::string_view dtype) {
    for (const Dtype& known : kDtypes)
        if (dtype == known.name) return known.bits;
    return 0;
}

// Fills a header from the events of its JSON.
class SafetensorsVisitor : public JsonVisitor {
public:
    SafetensorsVisitor(SafetensorsHeader& header, uint64_t data_bytes, const CheckName& check_name)
        : header_(header), data_bytes_(data_bytes), check_name_(check_name) {}

    Result<void> startObject() override {
        if (in_ == In::nothing) return enter(In::header);
        if (in_ == In::header) return in_metadata_ ? enter(In::metadata) : startTensor();
        return wrong("an object");
    }
    Result<void> endObject() override {
        if (in_ == In::tensor) VKMOE_CHECK(endTensor());
        return enter(In::header);
    }
    Result<void> startArray() override {
        if (in_ != In::tensor || field_ == Field::dtype) return wrong("an array");
        return enter(field_ == Field::shape ? In::shape : In::offsets);
    }
    Result<void> endArray() override {
        if (in_ == In::offsets && offsets_ != 2)
            return refused(fmt::format("{} has {} data_offsets, must have 2", tensorText(), offsets_));
        return enter(In::tensor);
    }
    Result<void> key(std::string_view name) override {
        if (in_ == In::metadata) return metadataKey(name);
        if (in_ == In::tensor) return fieldKey(name);
        in_metadata_ = name == "__metadata__";
        if (in_metadata_ && had_metadata_) return refused("__metadata__ is there twice");
        had_metadata_ |= in_metadata_;
        name_ = name;
        return {};
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (in_ == In::metadata) return metadataValue(value);
        if (in_ == In::shape) return dimension(value);
        if (in_ == In::offsets) return dataOffset(value);
        if (in_ != In::tensor || field_ != Field::dtype || value.kind != JsonScalar::Kind::string)
            return wrong(value.shown());
        return dtype(value.text);
    }

private:
    enum class In { nothing, header, metadata, tensor, shape, offsets };
    enum class Field { dtype, shape, data_offsets };
    static constexpr const char* kFields[] = {"dtype", "shape", "data_offsets"};

    Result<void> enter(In in) {
        in_ = in;
        return {};
    }
    std::string tensorText() const { return fmt::format("tensor {}", shown(name_)); }
    Result<void> wrong(const std::string& found) const {
        switch (in_) {
            case In::nothing:
                return refused(fmt::format("the header is {}, must be an object", found));
            case In::header:
                return refused(fmt::format("{} is {}, must be an object",
                                           in_metadata_ ? std::string("__metadata__") : tensorText(), found));
            case In::metadata:
                return refused(fmt::format("__metadata__ {} is {}, must be a string", shown(metadata_key_), found));
            default:
                return refused(fmt::format("{}: {} holds {}", tensorText(), kFields[size_t(field_)], found));
        }
    }

    Result<void> metadataKey(std::string_view name) {
        metadata_key_ = name;
        if (!metadata_keys_.insert(metadata_key_).second)
            return refused(fmt::format("__metadata__ {} is there twice", shown(name)));
        if (metadata_keys_.size() > kSafetensorsMaxMetadata)
            return refused(fmt::format("__metadata__ has more than {} entries", kSafetensorsMaxMetadata));
        return {};
    }
    Result<void> metadataValue(const JsonScalar& value) {
        if (value.kind != JsonScalar::Kind::string) return wrong(value.shown());
        if (!isOurKey(metadata_key_)) return {};
        ours_ += value.text.size();
        if (ours_ > kSafetensorsMaxOurs)
            return refused(
                fmt::format("__metadata__ has more than {} bytes under keys that start with vkmoe. or layers.",
                            kSafetensorsMaxOurs));
        header_.metadata_[metadata_key_] = value.text;
        return {};
    }

    Result<void> startTensor() {
        if (header_.entries_.size() == kSafetensorsMaxTensors)
            return refused(fmt::format("there are more than {} tensors", kSafetensorsMaxTensors));
        if (check_name_) VKMOE_CHECK(check_name_(name_));
        header_.names_.add(name_);
        VKMOE_CHECK(checkTwice());
        entry_ = {.shape = static_cast<uint32_t>(header_.shapes_.size())};
        seen_ = 0;
        offsets_ = 0;
        return enter(In::tensor);
    }
    static constexpr size_t kManyNames = size_t{1} << 15;
    // Of names that are read for long: a name that comes back is found early, however many follow.
    Result<void> checkTwice() {
        const size_t names = header_.names_.size();
        if (names < kManyNames || !std::has_single_bit(names)) return {};
        if (const auto twice = header_.names_.index())
            return refused(fmt::format("tensor {} is there twice", shown(header_.names_[*twice])));
        return {};
    }
    Result<void> fieldKey(std::string_view name) {
        for (size_t i = 0; i < std::size(kFields); ++i) {
            if (name != kFields[i]) continue;
            field_ = Field(i);
            if (seen_ & 1u << i) return refused(fmt::format("{} has {} twice", tensorText(), kFields[i]));
            seen_ |= 1u << i;
            return {};
        }
        return refused(fmt::format("{} has a field {}, which is unknown", tensorText(), shown(name)));
    }
    Result<void> dtype(std::string_view text) {
        auto& kinds = header_.dtypes_;
        const auto found = std::find(kinds.begin(), kinds.end(), text);
        entry_.dtype = static_cast<uint8_t>(found - kinds.begin());
        if (found != kinds.end()) return {};
        if (text.size() > kLongestDtype || kinds.size() == kMostDtypes)
            return refused(fmt::format("{} has the unknown dtype {}", tensorText(), shown(text)));
        kinds.emplace_back(text);
        return {};
    }
    Result<void> dimension(const JsonScalar& value) {
        if (value.kind != JsonScalar::Kind::integer) return wrong(value.shown());
        if (entry_.rank == kSafetensorsMaxRank)
            return refused(fmt::format("{} has more than {} dimensions", tensorText(), kSafetensorsMaxRank));
        ++entry_.rank;
        header_.shapes_.push_back(value.integer);
        return {};
    }
    Result<void> dataOffset(const JsonScalar& value) {
        if (value.kind != JsonScalar::Kind::integer) return wrong(value.shown());
        if (++offsets_ > 2) return refused(fmt::format("{} has more than 2 data_offsets", tensorText()));
        (offsets_ == 1 ? entry_.begin : entry_.end) = value.integer;
        return {};
    }

    Result<void> endTensor() {
        for (size_t i = 0; i < std::size(kFields); ++i)
            if (!(seen_ & 1u << i)) return refused(fmt::format("{} has no {}", tensorText(), kFields[i]));
        if (entry_.begin > entry_.end || entry_.end > data_bytes_)
            return refused(fmt::format("{} has data_offsets [{}, {}], which are not in order within {} bytes of data",
                                       tensorText(), entry_.begin, entry_.end, data_bytes_));
        VKMOE_CHECK(checkBytes());
        header_.entries_.push_back(entry_);
        return {};
    }
    Result<void> checkBytes() const {
        const std::string& kind = header_.dtypes_[entry_.dtype];
        const uint64_t bits_each = safetensorsBits(kind);
        if (bits_each == 0) return {};
        const auto shape = header_.shapeOf(entry_);
        std::optional<uint64_t> bits = checkedProduct(shape);
        if (bits) bits = checkedMul(*bits, bits_each);
        if (!bits)
            return refused(
                fmt::format("{} has shape {}, more bits than 64 bits can count", tensorText(), shapeText(shape)));
        if (*bits % 8 != 0 || *bits / 8 != entry_.end - entry_.begin)
            return refused(fmt::format("{} is {} {} and so has {} bits, but its data_offsets [{}, {}] have {} bytes",
                                       tensorText(), kind, shapeText(shape), *bits, entry_.begin, entry_.end,
                                       entry_.end - entry_.begin));
        return {};
    }

    SafetensorsHeader& header_;
    uint64_t data_bytes_;
    const CheckName& check_name_;
    In in_ = In::nothing;
    bool in_metadata_ = false, had_metadata_ = false;
    std::string name_, metadata_key_;
    std::unordered_set<std::string> metadata_keys_;
    SafetensorsHeader::Entry entry_;
    Field field_ = Field::dtype;
    uint32_t seen_ = 0, offsets_ = 0;
    uint64_t ours_ = 0;
};

Result<SafetensorsHeader> SafetensorsHeader::read(const ByteSource& file, const CheckName& check_name) {
    VKMOE_TRY(bytes, readHeaderBytes(file));
    SafetensorsHeader header;
    header.data_ = 8 + bytes;
    const uint64_t data_bytes = file.size() - header.data_;
    SafetensorsVisitor visitor(header, data_bytes, check_name);
    VKMOE_CHECK(readJson(file, 8, bytes, "the header", visitor));
    if (const auto twice = header.names_.index())
        return inputError(file.name(), fmt::format("tensor {} is there twice", shown(header.names_[*twice])));
    const auto tiled = header.checkTiling(data_bytes);
    if (!tiled) return inFile(file.name(), tiled.error());
    return header;
}

SafetensorsTensor SafetensorsHeader::at(size_t i) const {
    const Entry& entry = entries_[i];
    return {names_[i], dtypes_[entry.dtype], shapeOf(entry), data_ + entry.begin, entry.end - entry.begin};
}

std::span<const uint64_t> SafetensorsHeader::shapeOf(const Entry& entry) const {
    return std::span(shapes_).subspan(entry.shape, entry.rank);
}

// Tensors without bytes may lie anywhere between two others, or at the ends.
Result<void> SafetensorsHeader::checkTiling(uint64_t data_bytes) const {
    std::vector<uint32_t> order(entries_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return std::pair(entries_[a].begin, entries_[a].end) < std::pair(entries_[b].begin, entries_[b].end);
    });
    uint64_t end = 0;
    for (const uint32_t i : order) {
        if (entries_[i].begin != end)
            return refused(
                fmt::format("tensor {} starts at byte {} of the data, must start where the one before it "
                            "ends, at {}",
                            shown(names_[i]), entries_[i].begin, end));
        end = entries_[i].end;
    }
    if (end != data_bytes) return refused(fmt::format("the tensors have {} bytes, the data {}", end, data_bytes));
    return {};
}

}  // namespace vkmoe::formats
