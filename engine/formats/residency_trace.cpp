#include "engine/formats/residency_trace.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "engine/formats/checked.h"
#include "engine/formats/strict_json.h"
#include "host/page_groups.h"

namespace vkmoe::formats {
namespace {

using Kind = JsonScalar::Kind;

enum Field { kFormat, kVersion, kPages, kPageBytes, kCosts, kVisits };
constexpr std::array<std::string_view, 6> kFields = {"format", "version", "pages", "page_bytes", "costs", "visits"};
constexpr std::array<std::string_view, 3> kCostFields = {"read_bytes_per_second", "copy_bytes_per_second",
                                                         "seconds_per_visit"};

// Levels: 0 the text, 1 the object, 2 inside one of its lists or costs, 3 a visit, 4 what it used.
class TraceVisitor : public JsonVisitor {
public:
    explicit TraceVisitor(Trace& trace) : trace_(trace) {}

    Result<void> startObject() override {
        if (level_ != 0 && (level_ != 1 || field_ != kCosts)) return wrong("an object");
        level_++;
        return {};
    }
    Result<void> endObject() override {
        level_--;
        return {};
    }
    Result<void> startArray() override {
        bool list = level_ == 1 && (field_ == kPages || field_ == kPageBytes || field_ == kVisits);
        bool visit = field_ == kVisits && (level_ == 2 || (level_ == 3 && part_ == 1));
        if (level_ == 0 || (!list && !visit)) return wrong("an array");
        if (level_ == 2) VKMOE_CHECK(addVisit());
        level_++;
        return {};
    }
    Result<void> endArray() override {
        level_--;
        if (level_ == 2 && part_ != 2) return visitWrong("must be a group and a list of what it used");
        if (level_ == 3) part_ = 2;
        return {};
    }
    Result<void> key(std::string_view name) override {
        return level_ == 1 ? select(kFields, name, "", had_, field_)
                           : select(kCostFields, name, "costs.", had_cost_, cost_);
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (level_ == 1) return head(value);
        if (level_ == 2 && field_ == kCosts) return cost(value);
        if (level_ == 2 && field_ == kPages) return number(value, kMaxTracePages, trace_.pages);
        if (level_ == 2 && field_ == kPageBytes) return number(value, kMaxTracePageBytes, trace_.page_bytes);
        if (level_ == 3 && part_ == 0) return group(value);
        if (level_ == 4) return expert(value);
        return wrong(value.shown());
    }

    // What no single event shows. Pages of visits are numbered through from here on.
    Result<void> finish() {
        for (int field : {kFormat, kVersion, kPages, kPageBytes, kVisits})
            if (!had_[size_t(field)]) return refused(fmt::format("{} is missing", kFields[size_t(field)]));
        if (trace_.pages.empty()) return refused("pages is empty, must have a number for each group");
        if (trace_.pages.size() != trace_.page_bytes.size())
            return refused(
                fmt::format("pages has {} groups, page_bytes {}", trace_.pages.size(), trace_.page_bytes.size()));
        if (trace_.allPages() > kMaxTracePages)
            return refused(
                fmt::format("pages of all groups are {}, must be at most {}", trace_.allPages(), kMaxTracePages));
        return checkVisits();
    }

private:
    template <size_t n>
    Result<void> select(const std::array<std::string_view, n>& names, std::string_view name, const char* prefix,
                        std::array<bool, n>& had, int& chosen) {
        for (size_t i = 0; i < n; ++i) {
            if (names[i] != name) continue;
            if (had[i]) return refused(fmt::format("{}{} is there twice", prefix, name));
            had[i] = true;
            chosen = int(i);
            return {};
        }
        return refused(fmt::format("{}{} is unknown", prefix, shown(name)));
    }

    Result<void> visitWrong(const std::string& what) const {
        return refused(fmt::format("visits {}: {}", trace_.visits.size() - 1, what));
    }
    Result<void> wrong(const std::string& found) const {
        if (level_ == 0) return refused(fmt::format("the trace is {}, must be an object", found));
        if (level_ >= 3) return visitWrong(fmt::format("found {}, must be a group and a list of what it used", found));
        const char* wanted = field_ == kCosts    ? "an object"
                             : field_ == kVisits ? "a list of visits"
                                                 : "a list of numbers";
        return refused(fmt::format("{} is or has {}, must be {}", kFields[size_t(field_)], found, wanted));
    }

    Result<void> head(const JsonScalar& value) const {
        if (field_ == kFormat && (value.kind != Kind::string || value.text != "vkmoe-trace"))
            return refused(fmt::format("format is {}, must be \"vkmoe-trace\"", value.shown()));
        if (field_ == kVersion && (value.kind != Kind::integer || value.integer != 1))
            return refused(fmt::format("version is {}, must be 1", value.shown()));
        return field_ == kFormat || field_ == kVersion ? Result<void>() : wrong(value.shown());
    }

    template <class T>
    Result<void> number(const JsonScalar& value, uint64_t most, std::vector<T>& into) const {
        std::string_view name = kFields[size_t(field_)];
        if (value.kind != Kind::integer || value.integer > most || value.integer == 0)
            return refused(fmt::format("{} {} is {}, must be 1 to {}", name, into.size(), value.shown(), most));
        if (into.size() == kMaxTraceGroups)
            return refused(fmt::format("{} has more than {} groups", name, into.size()));
        into.push_back(static_cast<T>(value.integer));
        return {};
    }

    Result<void> cost(const JsonScalar& value) {
        double read = static_cast<double>(value.integer);
        bool is_number = value.kind == Kind::integer || value.kind == Kind::number;
        if (value.kind == Kind::number) std::from_chars(value.text.data(), value.text.data() + value.text.size(), read);
        if (!is_number || !(read >= 0 && read <= 1e18))
            return refused(fmt::format("costs.{} is {}, must be a number of 0 to 1e18", kCostFields[size_t(cost_)],
                                       value.shown()));
        ReplayCosts& c = trace_.costs;
        (cost_ == 0 ? c.read_bytes_per_second : cost_ == 1 ? c.copy_bytes_per_second : c.seconds_per_visit) = read;
        return {};
    }

    Result<void> addVisit() {
        if (trace_.visits.size() == kMaxTraceVisits)
            return refused(fmt::format("visits are more than {}", kMaxTraceVisits));
        trace_.visits.emplace_back();
        part_ = 0;
        return {};
    }
    Result<void> group(const JsonScalar& value) {
        if (value.kind != Kind::integer || value.integer >= kMaxTraceGroups)
            return visitWrong(fmt::format("group is {}, must be 0 to {}", value.shown(), kMaxTraceGroups - 1));
        trace_.visits.back().group = static_cast<uint32_t>(value.integer);
        part_ = 1;
        return {};
    }
    Result<void> expert(const JsonScalar& value) {
        if (value.kind != Kind::integer || value.integer >= kMaxTracePages)
            return visitWrong(fmt::format("expert is {}, must be 0 to {}", value.shown(), kMaxTracePages - 1));
        trace_.visits.back().pages.push_back(static_cast<PageId>(value.integer));
        return {};
    }

    Result<void> checkVisits() {
        PageGroups groups(trace_.pages);
        std::vector<uint32_t> used_by(groups.pages(), 0);  // 1 + the last visit
        for (size_t i = 0; i < trace_.visits.size(); ++i) {
            Visit& visit = trace_.visits[i];
            if (visit.group >= groups.count())
                return refused(
                    fmt::format("visits {}: group {} is not one of 0 to {}", i, visit.group, groups.count() - 1));
            for (PageId& page : visit.pages) {
                uint32_t expert = page, size = groups.size(visit.group);
                if (expert >= size)
                    return refused(fmt::format("visits {}: expert {} is not one of 0 to {}", i, expert, size - 1));
                page += groups.first(visit.group);
                if (used_by[page] == i + 1)
                    return refused(fmt::format("visits {}: expert {} is listed twice", i, expert));
                used_by[page] = static_cast<uint32_t>(i + 1);
            }
        }
        return {};
    }

    Trace& trace_;
    uint32_t level_ = 0;
    int field_ = 0, cost_ = 0;
    int part_ = 0;  // of the visit: 0 before its group, 1 before its list, 2 complete
    std::array<bool, 6> had_ = {};
    std::array<bool, 3> had_cost_ = {};
};

std::string headText(const Trace& trace) {
    const ReplayCosts& c = trace.costs;
    return fmt::format(
        "{{\"format\":\"vkmoe-trace\",\"version\":1,\n\"pages\":[{}],\n\"page_bytes\":[{}],\n"
        "\"costs\":{{\"read_bytes_per_second\":{},\"copy_bytes_per_second\":{},\"seconds_per_visit\":{}}},\n\"visits\":"
        "[",
        fmt::join(trace.pages, ","), fmt::join(trace.page_bytes, ","), c.read_bytes_per_second, c.copy_bytes_per_second,
        c.seconds_per_visit);
}

}  // namespace

Result<Trace> readTrace(const ByteSource& file) {
    if (file.size() > kMaxTraceBytes)
        return inputError(file.name(), fmt::format("the length of the trace is {}, at most {} are read", file.size(),
                                                   kMaxTraceBytes));
    Trace trace;
    TraceVisitor visitor(trace);
    VKMOE_CHECK(readJson(file, 0, file.size(), "the trace", visitor));
    if (auto finished = visitor.finish(); !finished) return inFile(file.name(), finished.error());
    return trace;
}

Result<void> writeTrace(const std::string& path, const Trace& trace) {
    PageGroups groups(trace.pages);
    return writeFileInPieces(path, [&](const ByteSink& put) -> Result<void> {
        std::string text = headText(trace);
        for (size_t i = 0; i < trace.visits.size(); ++i) {
            const Visit& visit = trace.visits[i];
            text += fmt::format("{}[{},[", i == 0 ? "\n" : ",\n", visit.group);
            for (size_t n = 0; n < visit.pages.size(); ++n)
                text += fmt::format("{}{}", n == 0 ? "" : ",", visit.pages[n] - groups.first(visit.group));
            text += "]]";
            if (text.size() < 1 << 16) continue;
            VKMOE_CHECK(put(std::as_bytes(std::span(text))));
            text.clear();
        }
        text += "\n]}\n";
        return put(std::as_bytes(std::span(text)));
    });
}

}  // namespace vkmoe::formats
