// Moments on their way to a checkpoint and back.
#include <fmt/format.h>

#include <algorithm>

#include "engine/train/parameter_set.h"
#include "engine/turn.h"
#include "host/transfer.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

Result<std::vector<float>> gather(Device& device, const std::vector<Buffer>& buffers,
                                  const std::vector<uint64_t>& words, uint64_t all) {
    std::vector<float> out(all);
    uint64_t at = 0;
    for (size_t i = 0; i < buffers.size(); at += words[i++])
        if (words[i] != 0)
            VKMOE_CHECK(downloadBytes(device, buffers[i], 0,
                                      std::as_writable_bytes(std::span(out)).subspan(at * 4, words[i] * 4)));
    return out;
}

Result<void> scatter(Device& device, const std::vector<float>& values, const std::vector<Buffer>& buffers,
                     const std::vector<uint64_t>& words) {
    const uint64_t staged = stagingBytes(device, values.size() * 4) / 4;  // words
    VKMOE_TRY(piece, device.allocate(staged * 4, Memory::upload, "moments, on their way"));
    auto* to = reinterpret_cast<float*>(piece.mapped().data());
    const float* from = values.data();
    for (size_t i = 0; i < buffers.size(); ++i)
        for (uint64_t done = 0; done < words[i]; done += staged) {
            uint64_t count = std::min(staged, words[i] - done);
            std::transform(from, from + count, to, state_rule);
            from += count;
            Commands commands;
            commands.copy(piece, 0, buffers[i], done * 4, count * 4);
            VKMOE_CHECK(submitAndWait(device, commands));
        }
    return {};
}

Result<void> checkMoments(const char* name, const std::vector<float>& values, uint64_t expected, bool positive) {
    if (values.size() != expected)
        return Error{ErrorCode::bad_input, fmt::format("the optimizer's state holds {} {} moments, the model has {}",
                                                       values.size(), name, expected)};
    for (size_t i = 0; i < values.size(); ++i)
        if (out_of_range(values[i]) || (positive && values[i] < 0))
            return Error{
                ErrorCode::bad_input,
                fmt::format("the optimizer's state: {} moment {} is {}, which none can be", name, i, values[i])};
    return {};
}

}  // namespace

Result<void> checkMoments(const OptimizerState& state, uint64_t words) {
    VKMOE_CHECK(checkMoments("first", state.first, words, false));
    return checkMoments("second", state.second, words, true);
}

Result<OptimizerState> ParameterSet::save() const {
    Turn turn(*engine_);
    VKMOE_TRY(first, gather(engine_->device(), first_, moment_words_, owned_words_));
    VKMOE_TRY(second, gather(engine_->device(), second_, moment_words_, owned_words_));
    return OptimizerState{step(), std::move(first), std::move(second)};
}

Result<void> ParameterSet::restore(const OptimizerState& state) {
    VKMOE_CHECK(checkMoments(state, owned_words_));
    Turn turn(*engine_);
    VKMOE_CHECK(scatter(engine_->device(), state.first, first_, moment_words_));
    VKMOE_CHECK(scatter(engine_->device(), state.second, second_, moment_words_));
    clock_ = AdamwClock(state.step);
    return {};
}

}  // namespace v1
}  // namespace vkmoe
