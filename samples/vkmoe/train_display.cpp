#include "samples/vkmoe/train_display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "samples/vkmoe/paging.h"

namespace vkmoe::program {
namespace {

std::string readableTime(double seconds) {
    const auto whole = uint64_t(std::clamp(seconds, 0.0, 1e9));
    if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
    return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

// Of the terminal that stderr is.
size_t columns() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

}  // namespace

double balance(std::span<const uint64_t> expert_tokens, uint32_t experts) {
    double worst = 0;
    for (size_t layer = 0; experts > 0 && layer + experts <= expert_tokens.size(); layer += experts) {
        uint64_t all = 0, largest = 0;
        for (uint64_t tokens : expert_tokens.subspan(layer, experts))
            all += tokens, largest = std::max(largest, tokens);
        if (all > 0) worst = std::max(worst, double(largest) * experts / double(all));
    }
    return worst;
}

TrainDisplay::TrainDisplay(bool json, uint64_t first, std::optional<uint64_t> steps, std::optional<double> minutes)
    : json_(json), terminal_(isatty(STDERR_FILENO)), first_(first), steps_(steps), minutes_(minutes) {}

TrainDisplay::~TrainDisplay() { clear(); }

void TrainDisplay::clear() {
    if (std::exchange(shown_, false)) fmt::print(stderr, "\r\x1b[K");
}

double TrainDisplay::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

double TrainDisplay::secondsLeft(uint64_t step) const {
    if (minutes_) return *minutes_ * 60 - seconds();
    return seconds() / double(step - first_) * double(steps_.value_or(step) - step);
}

void TrainDisplay::step(uint64_t step, const LmStep& done, double smoothed, uint32_t experts,
                        const std::optional<PagingReport>& paging) {
    tokens_ += done.tokens;
    loss_ = done.loss, smoothed_ = smoothed;
    const double worst = balance(done.expert_tokens, experts);
    if (json_) {
        Json line = {{"step", step},
                     {"loss", done.loss},
                     {"smoothed_loss", smoothed},
                     {"learning_rate", done.learning_rate},
                     {"grad_norm", done.grad_norm},
                     {"skipped", done.skipped},
                     {"tokens", done.tokens},
                     {"seconds", done.seconds},
                     {"balance", worst}};
        if (paging) line["pages"] = pagesJson(*paging);
        print(line);
        std::fflush(stdout);
    }
    const double now = seconds();
    if (!terminal_ || now - last_shown_ < 0.1) return;
    last_shown_ = now, shown_ = true;
    std::string line = fmt::format("step {}{}  loss {:.4f} ({:.4f})  {:.0f} tokens/s  balance {:.2f}  {} left{}", step,
                                   steps_ ? fmt::format("/{}", *steps_) : "", loss_, smoothed_,
                                   double(tokens_) / std::max(now, 1e-9), worst, readableTime(secondsLeft(step)),
                                   validation_ ? fmt::format("  validation {:.4f}", *validation_) : "");
    line.resize(std::min(line.size(), columns() - 1));  // a line that wraps is not cleared; what is said last may miss
    fmt::print(stderr, "\r\x1b[K{}", line);
    std::fflush(stderr);
}

void TrainDisplay::validation(uint64_t step, double loss) {
    validation_ = loss;
    clear();
    if (json_)
        print({{"step", step}, {"validation_loss", loss}});
    else
        fmt::print("step {:>6}  loss {:.4f}  smoothed {:.4f}  validation {:.4f}  {:.0f} tokens/s\n", step, loss_,
                   smoothed_, loss, double(tokens_) / std::max(seconds(), 1e-9));
    std::fflush(stdout);
}

}  // namespace vkmoe::program
