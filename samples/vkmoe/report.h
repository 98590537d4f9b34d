// The demo's report: one HTML file that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "vkmoe/layer.h"

namespace vkmoe::program {

struct DeviceRun {
    std::string choice;
    DeviceInfo info;
    ForwardResult result;
    std::string checksum;  // of the output's bits
};

struct Report {
    std::string checkpoint, precision;
    Description description;
    std::vector<DeviceRun> runs;
    bool same_bits = false;
};

// Routing heat map, load histogram, device table, verdict; colours follow the reader's light or dark setting.
std::string reportHtml(const Report& report);

}  // namespace vkmoe::program
