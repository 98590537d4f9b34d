// The state of a training run: what is written is read, and nothing else is.
#include "engine/formats/training_state.h"

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "engine/formats/crc_trailer.h"

using namespace vkmoe;
using namespace vkmoe::formats;

namespace {

using Bytes = std::vector<std::byte>;

TrainingState example() {
    TrainingState state;
    state.options = {{"--lr", "0.003"}, {"--text", ""}, {"--codec", "codec:bytes"}};
    state.weights_hash = 0x0123456789abcdefu;
    state.weights_bytes = 77;
    state.step = 3;
    state.loss_scale = 16384;
    state.loss_streak = 2;
    state.sampler = UINT64_MAX;
    state.losses = {5.5f, 5.25f, 1e-30f};
    state.validations = {{2, 5.375}};
    state.loads = {2, 3, 1, {}};
    for (uint64_t step = 1; step <= 3; ++step) state.loads.add(step, std::vector<uint64_t>{1, 2, 3, 4, 5, step});
    state.first = {1, -2, 0.5f};
    state.second = {4, 9, 0};
    return state;
}

// The file with other bytes at a place, and the CRC that makes them right again.
Bytes patched(Bytes bytes, size_t at, const void* with, size_t size) {
    std::memcpy(bytes.data() + at, with, size);
    const uint32_t crc = crc32(std::span(bytes).first(bytes.size() - 4));
    std::memcpy(bytes.data() + bytes.size() - 4, &crc, 4);
    return bytes;
}

void checkRefused(const Bytes& bytes, const std::string& part = "") {
    const auto read = readTrainingState("m.state", bytes);
    REQUIRE(!read);
    INFO(read.error().detail);
    CHECK(read.error().code == ErrorCode::bad_input);
    CHECK(read.error().detail.starts_with("m.state: "));
    CHECK(read.error().detail.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("a training state comes back as it was", "[formats]") {
    const TrainingState state = example();
    const Bytes bytes = writeTrainingState(state);
    const auto read = readTrainingState("m.state", bytes);
    REQUIRE(read);
    CHECK(read.value().options == state.options);
    CHECK(read.value().weights_hash == state.weights_hash);
    CHECK(read.value().sampler == state.sampler);
    CHECK(read.value().losses == state.losses);
    CHECK(read.value().loads.loads == state.loads.loads);
    CHECK(read.value().first == state.first);
    CHECK((writeTrainingState(read.value()) == bytes));
    const Bytes empty = writeTrainingState({});
    REQUIRE(readTrainingState("m.state", empty));
    CHECK((writeTrainingState(readTrainingState("m.state", empty).value()) == empty));
}

TEST_CASE("a damaged training state is refused", "[formats][hostile]") {
    const Bytes bytes = writeTrainingState(example());
    for (size_t length = 0; length < bytes.size(); ++length)
        checkRefused(Bytes(bytes.begin(), bytes.begin() + ptrdiff_t(length)));
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        Bytes flipped = bytes;
        flipped[bit / 8] ^= std::byte(1 << bit % 8);
        checkRefused(flipped);
    }
    Bytes longer = bytes;
    longer.push_back(std::byte{0});
    checkRefused(longer, "the header says");
}

TEST_CASE("numbers in a training state with a right CRC are not believed", "[formats][hostile]") {
    const Bytes bytes = writeTrainingState(example());
    std::mt19937 random(1);
    for (size_t at = 16; at + 8 <= bytes.size() - 4; ++at) {  // any number may be anywhere
        CAPTURE(at);
        for (const uint64_t number : {UINT64_MAX, uint64_t{1} << 32, uint64_t{1} << 61, uint64_t{random()}}) {
            const auto read = readTrainingState("m.state", patched(bytes, at, &number, 8));
            if (!read) CHECK(read.error().detail.starts_with("m.state: "));
        }
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    checkRefused(patched(bytes, bytes.size() - 8, &nan, 4), "second moments have a number that is not finite, at 2");
    const uint32_t version = 2;
    checkRefused(patched(bytes, 4, &version, 4), "version is 2, must be 1");
    const uint32_t options = kMaxTrainingOptions + 1;
    checkRefused(patched(bytes, 32, &options, 4), "the number of options is 1025, at most 1024");
}

TEST_CASE("loads over time keep their sums in at most 128 rows", "[formats]") {
    LoadHistory loads{2, 2, 1, {}};
    uint64_t wanted[4] = {};
    for (uint64_t step = 1; step <= 1000; ++step) {
        const uint64_t now[] = {step, 1, step % 3, 7};
        loads.add(step, now);
        for (int i = 0; i < 4; ++i) wanted[i] += now[i];
        REQUIRE(loads.rows() <= LoadHistory::kMostRows);
        REQUIRE(loads.rows() == (step + loads.steps_per_row - 1) / loads.steps_per_row);
    }
    CHECK(loads.steps_per_row == 8);
    for (size_t i = 0; i < 4; ++i) {
        uint64_t sum = 0;
        for (size_t row = 0; row < loads.rows(); ++row) sum += loads.loads[row * 4 + i];
        CHECK(sum == wanted[i]);
    }
    CHECK(loads.loads[0] == 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8);
}
