// TrainingState: what a run of language-model training needs beside its weights to go on as if it had not stopped.
//
// A file is little-endian, without padding: u32 magic 0x53544d56 ("VMTS"), u32 version 1, u64 bytes of the whole file;
// the weights' u64 hash and u64 length; u32 number of options and for each two texts, name and value (u32 length,
// UTF-8); u64 step, u64 optimizer step, f64 loss scale, u32
// streak, u64 sampler; u64 n and n losses (f32); u64 n and n validations (u64
// step, f64 loss); u32 layers, u32 experts, u64 steps a row, u64 rows and the rows' loads (u64 [rows, layers,
// experts]); u64 P, the first moments f32 [P] and the second; u32 CRC-32 of all bytes before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint32_t kMaxTrainingOptions = 1024;
inline constexpr uint32_t kMaxOptionBytes = 65536;

struct Validation {
    uint64_t step = 0;
    double loss = 0;
};

// Assignments of each expert over time. A row covers steps_per_row steps; once there are kMostRows, pairs become one.
struct LoadHistory {
    static constexpr uint64_t kMostRows = 128;

    uint32_t layers = 0, experts = 0;
    uint64_t steps_per_row = 1;
    std::vector<uint64_t> loads;  // [rows, layers, experts]

    uint64_t width() const { return uint64_t{layers} * experts; }  // of a row
    uint64_t rows() const { return width() == 0 ? 0 : loads.size() / width(); }
    // `step` counts from 1 and comes after the one before; expert_tokens is [layers, experts].
    void add(uint64_t step, std::span<const uint64_t> expert_tokens);
};

struct TrainingState {
    std::vector<std::pair<std::string, std::string>> options;  // what the run was told, to be compared when it goes on
    uint64_t weights_hash = 0, weights_bytes = 0;              // of the weights' file
    uint64_t step = 0;
    uint64_t optimizer_step = 0;  // steps but for those that were skipped
    double loss_scale = 0;
    uint32_t loss_streak = 0;
    uint64_t sampler = 0;       // where the generator that picks sequences stands
    std::vector<float> losses;  // of each step
    std::vector<Validation> validations;
    LoadHistory loads;
    std::vector<float> first, second;  // moments
};

std::vector<std::byte> writeTrainingState(const TrainingState& state);
// The same in pieces, front to back.
Result<void> writeTrainingState(const TrainingState& state, const ByteSink& put);

// Checks length and CRC first, then each length against what is left before anything of its size is allocated.
// Losses and moments must be finite. `name` stands for the file in sentences.
Result<TrainingState> readTrainingState(const std::string& name, std::span<const std::byte> bytes);

}  // namespace vkmoe::formats
