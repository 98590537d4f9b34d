#include "host/cpu/work_list.h"

#include <algorithm>
#include <utility>

#include "host/clock.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kUnit = 16;
constexpr double kUnknown = 1e-6;                 // seconds of a group that never ran
constexpr double kShort = 8e-6, kCrumb = 0.3e-6;  // seconds: see share

uint64_t unitOf(uint64_t groups) { return groups >= 32 * kUnit ? kUnit : groups >= kUnit ? 4 : 1; }

}  // namespace

void WorkList::add(uint64_t groups, double& group_seconds, Run run) {
    if (groups == 0) return;
    const bool known = group_seconds > 0;
    const double expected = known ? group_seconds : kUnknown;
    pieces_.push_back({0, groups, unitOf(groups), known, expected, &group_seconds, std::move(run)});
    back_ = pieces_.size();
    seconds_ += expected * double(groups);
    left_ += groups;
}

void WorkList::run(bool from_end) {
    double now = secondsNow(), took = 0;
    for (Range range; next(range, took, from_end, now);) {
        range.piece->run(range.begin, range.end);
        const double start = std::exchange(now, secondsNow());
        took = now - start;
    }
}

void WorkList::runHere(bool learn) {
    const double start = learn ? secondsNow() : 0;
    for (Piece& piece : pieces_) piece.run(piece.first, piece.last);
    if (!learn) return;
    const double slower = (secondsNow() - start) / seconds_;
    for (Piece& piece : pieces_) piece.learn(piece.expected * slower);
}

// A fair share of what is left and of what other threads have still to do, so that all are done at once. Of what is
// long only two thirds, for threads are not equally fast; what is hardly worth a range of its own is taken along.
double WorkList::share(double now) const {
    const double busy = std::max(busy_until_ - double(busy_) * now, 0.0);
    const double left = std::max(seconds_, 0.0), fair = (left + busy) / double(threads_);
    const double most = fair < kShort ? fair : fair * 2 / 3;
    return left - most < kCrumb ? left : most;
}

// Hands `range` in, which was run in `took` seconds, and replaces it by the next one.
bool WorkList::next(Range& range, double took, bool from_end, double now) {
    tbb::spin_mutex::scoped_lock lock(mutex_);
    if (range.piece) done(range, took);
    while (front_ < back_ && pieces_[front_].first == pieces_[front_].last) ++front_;
    while (front_ < back_ && pieces_[back_ - 1].first == pieces_[back_ - 1].last) --back_;
    if (front_ == back_) return false;
    Piece& piece = pieces_[from_end ? back_ - 1 : front_];
    const uint64_t left = piece.last - piece.first, unit = piece.unit;
    const double most = share(now) / piece.expected;
    const uint64_t last_unit = (piece.last - 1) / unit, all = last_unit - piece.first / unit + 1;
    const uint64_t units =
        most > double(left) - 0.5 ? all : std::clamp<uint64_t>(uint64_t(most / double(unit) + 0.5), 1, all);
    range.piece = &piece;
    range.begin = from_end ? std::max(piece.first, (last_unit + 1 - units) * unit) : piece.first;
    range.end = from_end ? piece.last : std::min(piece.last, (piece.first / unit + units) * unit);
    (from_end ? piece.last : piece.first) = from_end ? range.begin : range.end;
    const double expected = double(range.end - range.begin) * piece.expected;
    seconds_ -= expected;
    range.until = now + expected;
    busy_until_ += range.until;
    ++busy_;
    left_ -= range.end - range.begin;
    return true;
}

void WorkList::done(const Range& range, double took) {
    Piece& piece = *range.piece;
    busy_until_ -= range.until;
    --busy_;
    piece.seconds += took;
    piece.done += range.end - range.begin;
    piece.learn(piece.seconds / double(piece.done));
}

void WorkList::Piece::learn(double took) {
    // A thread may have been interrupted: no more than so much at once.
    const double most = known ? std::min(took, 8 * expected) : took;
    *group_seconds = !known || most > expected ? most : expected + (most - expected) / 16;
}

void WorkList::clear() {
    pieces_.clear();
    front_ = back_ = 0;
    seconds_ = busy_until_ = 0;
    busy_ = 0;
    left_ = 0;
}

}  // namespace v1
}  // namespace vkmoe
