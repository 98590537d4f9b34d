// LanguageModel: the reference engine's EvermindLM on an engine's device: logits, and text generation that keeps the
// convolutions' state, so that a token costs the same at any position and has the bits of the full forward pass.
//
// Embedding; layers of u = x + conv(norm(x)), x = u + moe(norm(u)); a head tied to the embedding. LmTrainer
// (lm_trainer.h) trains it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vkmoe/description.h"
#include "vkmoe/engine.h"
#include "vkmoe/lm_config.h"
#include "vkmoe/paging.h"

namespace vkmoe {

namespace formats {
struct LmSource;
}

inline namespace v1 {

struct GenerateOptions {
    uint32_t max_new_tokens = 64;
    double temperature = 0;        // 0 or less: the most likely token, the first of equals; infinite: all alike
    uint32_t seed = 1;             // of the reference engine's sampler
    std::optional<uint32_t> stop;  // ends the text, and is part of it
    // Called with each new token; false ends the text there.
    std::function<bool(uint32_t token)> on_token = {};
};

class LanguageModel {
public:
    // Errors: bad_input (non-finite values among them), out_of_memory.
    static Result<LanguageModel> create(Engine& engine, const formats::LmSource& source,
                                        Precision precision = Precision::exact);
    // The same with the experts in pages of the file, which is not read at opening: paging.h. Same bits.
    static Result<LanguageModel> create(Engine& engine, const formats::LmSource& source, const PagingOptions& paging,
                                        Precision precision = Precision::exact);
    LanguageModel(LanguageModel&&) noexcept;
    LanguageModel& operator=(LanguageModel&&) noexcept;
    ~LanguageModel();

    const LmConfig& config() const;
    const Pager* pager() const;  // null: all weights are on the device
    // What was done since the model was opened, or since the last call; none without a pager.
    std::optional<PagingReport> takePaging();

    // Logits of every position, [tokens, vocab_size]. An id that is not in the vocabulary is an error.
    Result<std::vector<float>> logits(std::span<const uint32_t> tokens);

    // New tokens only. An empty prompt starts from token 0, which is not kept.
    Result<std::vector<uint32_t>> generate(std::span<const uint32_t> prompt, const GenerateOptions& options = {});

private:
    struct State;
    explicit LanguageModel(std::unique_ptr<State> state);
    static Result<LanguageModel> create(Engine& engine, const formats::LmSource& source, const PagingOptions* paging,
                                        Precision precision);
    std::unique_ptr<State> state_;
};

}  // namespace v1
}  // namespace vkmoe
