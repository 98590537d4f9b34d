// Checkpoints: a training run's pair of files, and the pair before it.
//
// M holds the weights, M.state the rest and the hash of the weights that it belongs to. Both are on the disk before
// either takes its place: where there is no room for both, nothing changes. Two files cannot change at one moment, so
// the weights come first, and the pair that was good before stays until the state is there too: as M.previous and
// M.state.previous. Whenever the process ends, a state and the weights it names are on disk.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/formats/training_state.h"
#include "host/result.h"

namespace vkmoe::program {

class Checkpoints {
public:
    explicit Checkpoints(const std::string& path);

    struct Found {
        formats::TrainingState state;
        std::vector<std::byte> weights;  // the bytes of M, or of M.previous
        std::string name;                // of the state's file
    };

    // The newest state whose weights are there. What was passed over, and why, goes to stderr. save() keeps what this
    // found until the next pair is complete.
    Result<Found> find();

    // The same for a run that begins anew: the pair that is there, if one is, stays until the next is complete.
    void keepOld();

    // Whether there is a state, good or not.
    bool any() const;

    // Whether the pair that find() found is M and M.state; else one of them is a previous one, and save() mends that.
    bool inPlace() const { return weights_are_current_ && state_is_current_; }
    // Whether M is another run's, which was killed before its state was there.
    bool weightsAreForeign() const { return state_is_current_ && !weights_are_current_; }

    // Writes a pair; fills in the state's hash. `weights` puts the bytes of M, front to back.
    Result<void> save(const std::function<Result<void>(const ByteSink& put)>& weights, formats::TrainingState& state);

    std::string statePath() const { return path_ + ".state"; }

private:
    std::optional<Found> search(std::vector<Error>& errors);

    std::string path_;
    bool weights_are_current_ = true, state_is_current_ = true;  // whether the last good pair is under the plain names
};

}  // namespace vkmoe::program
