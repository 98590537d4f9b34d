// Paging in the program: its options, what it did as JSON and as text, and the map of who is where.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "samples/vkmoe/context.h"
#include "vkmoe/stack.h"
#include "vkmoe/training_paging.h"

namespace vkmoe::program {

struct PagingChoice {
    std::optional<uint64_t> device_budget, host_budget;
    std::string policy = "auto", prefetch = "on", host = "auto", trace;
    std::vector<std::string> pins;  // "LAYER:EXPERT", each of which parsePin has read
    std::string scratch;            // of training; empty: the folder for temporary files
    bool map = false;

    // Without a budget, a trace, a map or pins everything is on the device, as it always was.
    bool wanted() const { return device_budget || host_budget || !trace.empty() || map || !pins.empty(); }
    PagingOptions options() const;
    // With a budget or a trace training pages, too. Errors: io if there is no folder for what memory does not hold.
    Result<std::optional<TrainingPaging>> training() const;
};

// "3:17": expert 17 of layer 3; nothing: it is no such pair.
std::optional<ExpertId> parsePin(const std::string& text);

// "1000000", "64KiB", "1.5GiB", "2GB": bytes; nothing: it is none of these, or not below 2^63.
std::optional<uint64_t> parseBytes(const std::string& text);

// {"hits":{"tier1":..,"tier2":..,"tier3":..},"bytes":..,"evictions":..,"cpu_computed":..} and more where pages move;
// bytes_written where they change.
Json pagesJson(const Stack& stack, const StackResult& result);
Json pagesJson(const PagingReport& report);

// A few lines for people.
std::string pagingPicture(const PagingReport& report);

// What there is beside the pages, at most so far: of the device's memory (pages included), and of the process.
Json memoryJson(Device& device);
std::string memoryLine(Device& device);

Result<void> writeTrace(const std::string& path, const Pager& pager, const PagingReport& report, double seconds);
// The same of training, if `path` is not empty and there are pages: `trainer` is an LmTrainer or a LayerTrainer.
template <class Trainer>
Result<void> writeTrainingTrace(const std::string& path, const Trainer& trainer, double seconds) {
    auto report = trainer.paging();
    if (path.empty() || !report) return {};
    report->visits.assign(trainer.visits().begin(), trainer.visits().end());
    return writeTrace(path, *trainer.pager(), *report, seconds);
}

// A line a layer on stderr, a character an expert, redrawn in place on a terminal and drawn once at the end elsewhere:
// '#' device, '+' host, '.' file. The pager is asked for each time, for a lost device takes it along; none (null, or
// nothing to ask): nothing is drawn.
class ResidencyMap {
public:
    explicit ResidencyMap(std::function<const Pager*()> pager);
    ~ResidencyMap();
    void show();

private:
    std::string draw(const Pager& pager) const;
    std::function<const Pager*()> pager_;
    bool terminal_, shown_ = false;
};

}  // namespace vkmoe::program
