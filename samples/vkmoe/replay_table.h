// ReplayTable: what every policy, and Belady, would have done with a history; as text, JSON and an HTML chart.
#pragma once

#include <string>
#include <vector>

#include "host/replay.h"
#include "samples/vkmoe/context.h"

namespace vkmoe::program {

struct ReplayRow {
    Policy policy = Policy::automatic;
    Policy decided = Policy::automatic;  // by whom at the end
    Replay result;
};

struct ReplayBudget {
    uint32_t slots = 0;
    double percent = 0;  // of all pages
    uint64_t bytes = 0;  // of the slots
    Replay belady;       // memory that all groups share
    Replay apart;        // a share for each group
    std::vector<ReplayRow> rows;
};

struct ReplayTable {
    std::string file;
    uint64_t groups = 0, pages = 0, page_bytes = 0, visits = 0;
    std::vector<ReplayBudget> budgets;
};

Json replayJson(const ReplayTable& table);
std::string replayText(const ReplayTable& table);
std::string replayHtml(const ReplayTable& table);

}  // namespace vkmoe::program
