// TrainPlan: what a training run is, before a device is opened: its texts as tokens, the model's shape, its options.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/formats/evl0.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/corpus.h"

namespace vkmoe::program {

// Names and values of all that decides the bits of a run.
using Settings = std::vector<std::pair<std::string, std::string>>;

struct TrainPlan {
    std::unique_ptr<TextCodec> codec;
    std::string codec_tag;
    Corpus corpus;
    LmConfig config;
    std::optional<formats::LmSource> start;  // whose parameters the run begins with; none: new ones
    uint32_t seed = 0;
    LmTrainerOptions trainer;
    std::optional<uint64_t> steps;  // none: the time ends the run
    Settings settings;
};

// What a text codec is read from, in a folder whatever may be it; none for bytes.
std::vector<std::string> codecFiles(const std::string& codec);

// Model, state, tokenizer and what is kept of the ones before: links followed, whether they are there or not.
std::vector<std::string> checkpointFiles(const TrainOptions& options);

// Errors: a bad text, codec, shape or option; the sentence names it.
Result<TrainPlan> makePlan(const Context& context, const TrainOptions& options);

// The parameters that the run begins with.
Result<std::vector<float>> firstParameters(const TrainPlan& plan);

// The first setting that a checkpoint has otherwise is an error that names it and both values.
Result<void> checkSame(const std::string& checkpoint, const Settings& saved, const Settings& now);

}  // namespace vkmoe::program
