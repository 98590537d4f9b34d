#include "engine/formats/training_state.h"

#include <fmt/format.h>

#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "engine/formats/checked.h"
#include "engine/formats/crc_trailer.h"

namespace vkmoe::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

constexpr uint32_t kMagic = 0x53544d56, kVersion = 1;
constexpr uint64_t kLengthAt = 8, kFixedBytes = 16, kCrcBytes = 4;

// ---------------------------------------------------------------------------------------------------------- writing

class Writer {
public:
    template <class T>
    void number(T value) {
        many(std::span<const T>(&value, 1));
    }
    template <class T>
    void many(std::span<const T> values) {
        static_assert(std::is_trivially_copyable_v<T>);
        const auto raw = std::as_bytes(values);
        bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    }
    void text(const std::string& text) {
        number(uint32_t(text.size()));
        many(std::span<const char>(text));
    }
    // `more` bytes will follow.
    std::vector<std::byte> finish(uint64_t more) {
        const uint64_t length = bytes_.size() + more;
        std::memcpy(bytes_.data() + kLengthAt, &length, sizeof length);
        return std::move(bytes_);
    }

private:
    std::vector<std::byte> bytes_;
};

// ---------------------------------------------------------------------------------------------------------- reading

// Takes fields off the front of what is left. After the first failure all is zero, and the error stays.
class Reader {
public:
    Reader(const std::string& name, std::span<const std::byte> bytes) : name_(name), left_(bytes), all_(bytes.size()) {}

    template <class T>
    T number(const char* field) {
        T value{};
        if (has(field, 1, sizeof value)) std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }
    double finite(const char* field) {
        const auto value = number<double>(field);
        if (!std::isfinite(value)) fail(field, "is not finite");
        return value;
    }
    template <class T>
    std::vector<T> many(const char* field, uint64_t count) {
        if (count == 0 || !has(field, count, sizeof(T))) return {};
        std::vector<T> values(count);
        std::memcpy(values.data(), take(count * sizeof(T)).data(), count * sizeof(T));
        return values;
    }
    std::vector<float> finiteFloats(const char* field, uint64_t count) {
        auto values = many<float>(field, count);
        for (size_t i = 0; i < values.size(); ++i)
            if (!std::isfinite(values[i]))
                return fail(field, fmt::format("have a number that is not finite, at {}", i)), std::vector<float>();
        return values;
    }
    std::string text(const char* field) {
        const auto length = number<uint32_t>(field);
        if (length > kMaxOptionBytes)
            fail(field, fmt::format("has {} bytes, at most {} are read", length, kMaxOptionBytes));
        const auto bytes = many<char>(field, error_.empty() ? length : 0);
        return {bytes.begin(), bytes.end()};
    }
    void fail(const char* field, const std::string& what) {
        if (error_.empty()) error_ = fmt::format("{} {}", field, what);
    }
    bool failed() const { return !error_.empty(); }
    Result<void> finish() {
        if (error_.empty() && !left_.empty()) error_ = fmt::format("has {} bytes after its end", left_.size());
        if (!error_.empty()) return inputError(name_, error_);
        return {};
    }

private:
    bool has(const char* field, uint64_t count, uint64_t each) {
        if (!error_.empty()) return false;
        if (count <= left_.size() / each) return true;
        fail(field, fmt::format("needs {} values of {} bytes at offset {}, but {} bytes are left", count, each,
                                all_ - left_.size(), left_.size()));
        return false;
    }
    std::span<const std::byte> take(uint64_t bytes) {
        const auto taken = left_.first(bytes);
        left_ = left_.subspan(bytes);
        return taken;
    }

    const std::string& name_;
    std::span<const std::byte> left_;
    uint64_t all_;
    std::string error_;
};

Result<void> checkFrame(const std::string& name, std::span<const std::byte> bytes) {
    if (bytes.size() < kFixedBytes + kCrcBytes)
        return inputError(
            name, fmt::format("has {} bytes, a training state has at least {}", bytes.size(), kFixedBytes + kCrcBytes));
    if (littleU32(bytes) != kMagic)
        return inputError(
            name, fmt::format("magic is {:#010x}, that of a training state is {:#010x}", littleU32(bytes), kMagic));
    if (const uint32_t version = littleU32(bytes.subspan(4)); version != kVersion)
        return inputError(name, fmt::format("version is {}, must be {}", version, kVersion));
    if (const uint64_t length = littleU64(bytes.subspan(kLengthAt)); length != bytes.size())
        return inputError(name, fmt::format("length is {}, the header says {}", bytes.size(), length));
    const auto body = bytes.first(bytes.size() - kCrcBytes);
    const uint32_t stored = littleU32(bytes.subspan(body.size())), is = crc32(body);
    if (stored != is) return inputError(name, fmt::format("CRC-32 is {:#010x}, the file says {:#010x}", is, stored));
    return {};
}

void readOptions(Reader& reader, TrainingState& state) {
    const auto count = reader.number<uint32_t>("the number of options");
    if (count > kMaxTrainingOptions)
        reader.fail("the number of options", fmt::format("is {}, at most {} are read", count, kMaxTrainingOptions));
    for (uint32_t i = 0; i < count && !reader.failed(); ++i) {
        auto option = reader.text("an option's name");
        auto value = reader.text("an option's value");
        state.options.emplace_back(std::move(option), std::move(value));
    }
}

LoadHistory readLoads(Reader& reader) {
    LoadHistory loads;
    loads.layers = reader.number<uint32_t>("layers");
    loads.experts = reader.number<uint32_t>("experts");
    loads.steps_per_row = reader.number<uint64_t>("steps per row");
    const auto rows = reader.number<uint64_t>("rows of loads");
    if (!std::has_single_bit(loads.steps_per_row)) reader.fail("steps per row", "is no power of two");
    if (rows > LoadHistory::kMostRows)
        reader.fail("rows of loads", fmt::format("is {}, at most {} are read", rows, LoadHistory::kMostRows));
    if (rows > 0 && loads.width() == 0) reader.fail("rows of loads", fmt::format("is {}, but each is empty", rows));
    const auto count = checkedMul(rows, loads.width());
    if (!count) reader.fail("loads", "are more than 64 bits can count");
    loads.loads = reader.many<uint64_t>("loads", count.value_or(0));
    return loads;
}

// All that comes before the moments.
std::vector<std::byte> headOf(const TrainingState& state) {
    Writer writer;
    writer.number(kMagic);
    writer.number(kVersion);
    writer.number(uint64_t{0});  // the length, once it is known
    writer.number(state.weights_hash);
    writer.number(state.weights_bytes);
    writer.number(uint32_t(state.options.size()));
    for (const auto& [option, value] : state.options) writer.text(option), writer.text(value);
    writer.number(state.step);
    writer.number(state.optimizer_step);
    writer.number(state.loss_scale);
    writer.number(state.loss_streak);
    writer.number(state.sampler);
    writer.number(uint64_t(state.losses.size()));
    writer.many(std::span<const float>(state.losses));
    writer.number(uint64_t(state.validations.size()));
    for (const Validation& validation : state.validations)
        writer.number(validation.step), writer.number(validation.loss);
    writer.number(state.loads.layers);
    writer.number(state.loads.experts);
    writer.number(state.loads.steps_per_row);
    writer.number(state.loads.rows());
    writer.many(std::span<const uint64_t>(state.loads.loads));
    writer.number(uint64_t(state.first.size()));
    return writer.finish(8 * uint64_t{state.first.size()} + kCrcBytes);
}

}  // namespace

void LoadHistory::add(uint64_t step, std::span<const uint64_t> expert_tokens) {
    const uint64_t width = this->width();
    assert(step > 0 && expert_tokens.size() == width);
    if (width == 0) return;
    while ((step - 1) / steps_per_row >= kMostRows) {
        for (uint64_t i = 0; i < loads.size(); ++i) {
            const uint64_t to = i / width / 2 * width + i % width;
            loads[to] = i / width % 2 == 0 ? loads[i] : loads[to] + loads[i];
        }
        loads.resize((rows() + 1) / 2 * width);
        steps_per_row *= 2;
    }
    const uint64_t row = (step - 1) / steps_per_row;
    if (rows() <= row) loads.resize((row + 1) * width);
    for (uint64_t i = 0; i < width; ++i) loads[row * width + i] += expert_tokens[i];
}

Result<void> writeTrainingState(const TrainingState& state, const ByteSink& put) {
    assert(state.first.size() == state.second.size());
    const auto head = headOf(state);
    const auto first = std::as_bytes(std::span(state.first)), second = std::as_bytes(std::span(state.second));
    uint32_t crc = 0;
    for (const std::span<const std::byte> part : {std::span(head), first, second}) {
        crc = crc32(part, crc);
        VKMOE_CHECK(put(part));
    }
    return put(std::as_bytes(std::span(&crc, 1)));
}

std::vector<std::byte> writeTrainingState(const TrainingState& state) {
    std::vector<std::byte> bytes;
    const auto collect = [&](std::span<const std::byte> piece) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return Result<void>();
    };
    (void)writeTrainingState(state, collect);  // memory takes everything
    return bytes;
}

Result<TrainingState> readTrainingState(const std::string& name, std::span<const std::byte> bytes) {
    VKMOE_CHECK(checkFrame(name, bytes));
    Reader reader(name, bytes.subspan(kFixedBytes, bytes.size() - kFixedBytes - kCrcBytes));
    TrainingState state;
    state.weights_hash = reader.number<uint64_t>("the weights' hash");
    state.weights_bytes = reader.number<uint64_t>("the weights' length");
    readOptions(reader, state);
    state.step = reader.number<uint64_t>("step");
    state.optimizer_step = reader.number<uint64_t>("optimizer step");
    if (state.optimizer_step > state.step)
        reader.fail("optimizer step", fmt::format("is {}, after {} steps", state.optimizer_step, state.step));
    state.loss_scale = reader.finite("loss scale");
    state.loss_streak = reader.number<uint32_t>("streak");
    state.sampler = reader.number<uint64_t>("sampler");
    state.losses = reader.finiteFloats("losses", reader.number<uint64_t>("the number of losses"));
    if (state.losses.size() != state.step)
        reader.fail("losses",
                    fmt::format("are {}, one for each of {} steps is needed", state.losses.size(), state.step));
    static_assert(sizeof(Validation) == 16);
    state.validations = reader.many<Validation>("validations", reader.number<uint64_t>("the number of validations"));
    for (const Validation& validation : state.validations)
        if (!std::isfinite(validation.loss)) reader.fail("a validation's loss", "is not finite");
    state.loads = readLoads(reader);
    const auto parameters = reader.number<uint64_t>("the number of parameters");
    state.first = reader.finiteFloats("first moments", parameters);
    state.second = reader.finiteFloats("second moments", parameters);
    VKMOE_CHECK(reader.finish());
    return state;
}

}  // namespace vkmoe::formats
