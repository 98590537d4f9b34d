#include "samples/vkmoe/checkpoint.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "samples/vkmoe/targets.h"

namespace vkmoe::program {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrevious = ".previous";

uint64_t hashOf(const std::vector<std::byte>& bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Result<formats::TrainingState> readState(const std::string& path) {
    VKMOE_TRY(bytes, readFile(path));
    return formats::readTrainingState(path, bytes);
}

// Whether the weights at `path` are those that the state names.
Result<std::vector<std::byte>> readWeights(const std::string& path, const formats::TrainingState& state) {
    VKMOE_TRY(bytes, readFile(path));
    const uint64_t hash = hashOf(bytes);
    if (hash == state.weights_hash && bytes.size() == state.weights_bytes) return bytes;
    return Error{ErrorCode::bad_input,
                 fmt::format("{}: its {} bytes have hash {:016x}, the state's weights have {} bytes and hash {:016x}",
                             path, bytes.size(), hash, state.weights_bytes, state.weights_hash)};
}

Result<ReadyFile> ready(const std::string& path, bool keep, const ByteFill& fill) {
    return ReadyFile::write(path, keep ? fs::path(path).filename().string() + kPrevious : std::string(), fill);
}

struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// Fills with what `weights` puts, and notes hash and length.
ByteFill noting(const ByteFill& weights, formats::TrainingState& state) {
    return [&](const ByteSink& put) -> Result<void> {
        const std::unique_ptr<XXH3_state_t, FreeHash> hash(XXH3_createState());
        if (!hash) return Error{ErrorCode::out_of_memory, "no memory to hash the weights"};
        XXH3_64bits_reset(hash.get());
        state.weights_bytes = 0;
        VKMOE_CHECK(weights([&](std::span<const std::byte> piece) {
            XXH3_64bits_update(hash.get(), piece.data(), piece.size());
            state.weights_bytes += piece.size();
            return put(piece);
        }));
        state.weights_hash = XXH3_64bits_digest(hash.get());
        return {};
    };
}

}  // namespace

// Links are followed here, once: what is kept lies beside the file itself.
Checkpoints::Checkpoints(const std::string& path) : path_(followed(path)) {}

std::optional<Checkpoints::Found> Checkpoints::search(std::vector<Error>& errors) {
    for (const bool current : {true, false}) {
        const std::string name = statePath() + (current ? "" : kPrevious);
        auto state = readState(name);
        if (!state) {
            errors.push_back(state.error());
            continue;
        }
        for (const bool current_weights : {true, false}) {
            auto weights = readWeights(path_ + (current_weights ? "" : kPrevious), *state);
            if (!weights) {
                errors.push_back(weights.error());
                continue;
            }
            weights_are_current_ = current_weights;
            state_is_current_ = current;
            return Found{std::move(*state), std::move(*weights), name};
        }
    }
    return std::nullopt;
}

Result<Checkpoints::Found> Checkpoints::find() {
    std::vector<Error> errors;
    auto found = search(errors);
    if (!found) return errors.front();
    if (!state_is_current_)
        fmt::print(stderr, "vkmoe: warning: {}; going on from {}\n", errors.front().detail, found->name);
    return std::move(*found);
}

void Checkpoints::keepOld() {
    std::vector<Error> errors;
    search(errors);
}

bool Checkpoints::any() const {
    std::error_code failure;
    return fs::exists(statePath(), failure) || fs::exists(statePath() + kPrevious, failure);
}

Result<void> Checkpoints::save(const std::function<Result<void>(const ByteSink& put)>& weights,
                               formats::TrainingState& state) {
    VKMOE_TRY(model, ready(path_, weights_are_current_, noting(weights, state)));
    VKMOE_TRY(rest, ready(statePath(), state_is_current_,
                          [&](const ByteSink& put) { return formats::writeTrainingState(state, put); }));
    std::error_code failure;
    const bool first = fs::status(path_, failure).type() == fs::file_type::not_found;
    VKMOE_CHECK(model.commit());
    auto written = rest.commit();
    if (!written && first && fs::status(statePath(), failure).type() == fs::file_type::not_found)
        fs::remove(path_, failure);  // weights without a state are no checkpoint
    VKMOE_CHECK(written);
    weights_are_current_ = state_is_current_ = true;
    return {};
}

}  // namespace vkmoe::program
