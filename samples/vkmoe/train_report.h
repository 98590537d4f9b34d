// The report of a training run: one HTML file that needs nothing else.
#pragma once

#include <string>

#include "engine/formats/training_state.h"
#include "vkmoe/lm_config.h"

namespace vkmoe::program {

struct TrainReport {
    std::string model, device, summary;
    LmConfig config;
    const formats::TrainingState& state;
};

// Loss curves and the experts' load over time, a chart for each layer; colours follow the reader's light or dark
// setting.
std::string trainReportHtml(const TrainReport& report);

}  // namespace vkmoe::program
