#include "samples/vkmoe/routes_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "engine/formats/checked.h"
#include "engine/formats/strict_json.h"

namespace vkmoe::program {
namespace {

using formats::JsonScalar;
using formats::refused;
using Kind = JsonScalar::Kind;

enum Field { kTopK, kExperts, kGates };
constexpr std::array<std::string_view, 3> kFields = {"top_k", "experts", "gates"};

// A list of rows, a token each, of whatever length.
template <class T>
struct Rows {
    std::vector<T> values;
    std::vector<size_t> ends;  // [rows] in values

    size_t length(size_t row) const { return ends[row] - begin(row); }
    size_t begin(size_t row) const { return row == 0 ? 0 : ends[row - 1]; }
};

// Levels: 1 a layer's object, or that of "layers", 2 a list of it, 3 a token's row; two more below "layers".
class RoutesVisitor : public formats::JsonVisitor {
public:
    RoutesVisitor(std::vector<Description> layers, uint64_t tokens, bool stack, bool pool)
        : layers_(std::move(layers)), tokens_(tokens), stack_(stack), pool_(pool) {}

    Result<void> startObject() override {
        if (level() != 0) return wrong("an object");
        if (all_.size() == layers_.size())
            return refused(fmt::format("layers has more routes than those of {} layers", layers_.size()));
        ++depth_;
        had_ = {};
        return {};
    }
    Result<void> endObject() override {
        if (depth_-- == 1 && in_layers_) return {};
        return finishLayer();
    }
    Result<void> startArray() override {
        const bool is_list = depth_ == 1 && in_layers_ && !in_list_;
        if (!is_list && (level() == 0 || level() > 2 || field_ == kTopK)) return wrong("an array");
        if (is_list) in_list_ = true;
        if (!is_list && level() == 2 && rows() == tokens_)
            return bad(fmt::format("{} has more than {} tokens", kFields[field_], tokens_));
        ++depth_;
        return {};
    }
    Result<void> endArray() override {
        if (level() == 3 && field_ == kExperts) experts_.ends.push_back(experts_.values.size());
        if (level() == 3 && field_ == kGates) gates_.ends.push_back(gates_.values.size());
        --depth_;
        return {};
    }
    Result<void> key(std::string_view name) override {
        if (depth_ == 1 && in_layers_)
            return refused(fmt::format("{} is {}", formats::shown(name), name == "layers" ? "there twice" : "unknown"));
        if (depth_ == 1 && name == "layers" && had_ == std::array<bool, 3>{}) {
            in_layers_ = true;
            return {};
        }
        for (int field : {kTopK, kExperts, kGates}) {
            if (name != kFields[size_t(field)] || level() != 1) continue;
            if (had_[size_t(field)]) return bad(fmt::format("{} is there twice", name));
            had_[size_t(field)] = true;
            field_ = Field(field);
            return {};
        }
        return bad(fmt::format("{} is unknown", formats::shown(name)));
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (level() == 1 && field_ == kTopK) return topK(value);
        if (level() != 3) return wrong(value.shown());
        return field_ == kExperts ? expert(value) : gate(value);
    }

    Result<std::vector<Routes>> finish() {
        if (stack_ && !in_layers_) return refused(fmt::format("\"layers\", {} routes, is missing", layers_.size()));
        if (all_.size() != layers_.size())
            return refused(
                fmt::format("layers has the routes of {} layers, must have {}", all_.size(), layers_.size()));
        return std::move(all_);
    }

private:
    int level() const { return in_layers_ ? depth_ - 2 : depth_; }
    const Description& layer() const { return layers_[std::min(all_.size(), layers_.size() - 1)]; }
    bool anyWidth() const { return pool_ || layer().dispatch == Dispatch::fixed_budget; }
    uint64_t mostWidth() const { return pool_ ? kMostPoolWidth : anyWidth() ? layer().experts : layer().top_k; }
    size_t rows() const { return field_ == kExperts ? experts_.ends.size() : gates_.ends.size(); }

    Error bad(const std::string& what) const {
        return refused(in_layers_ ? fmt::format("layers.{}: {}", all_.size(), what) : what);
    }
    Error wrong(const std::string& found) const {
        if (level() <= 0) return bad(fmt::format("found {}, must be an object of routes", found));
        if (field_ == kTopK) return bad(fmt::format("top_k is {}, must be a number", found));
        if (level() == 3)
            return bad(fmt::format("{}: token {} has {}, must have numbers", kFields[field_], rows(), found));
        return bad(fmt::format("{} is or has {}, must be a list of tokens, lists of numbers", kFields[field_], found));
    }

    Result<void> topK(const JsonScalar& value) {
        const bool fits =
            value.kind == Kind::integer &&
            (anyWidth() ? value.integer >= 1 && value.integer <= mostWidth() : value.integer == layer().top_k);
        if (!fits)
            return bad(anyWidth() ? fmt::format("top_k is {}, must be 1 to {}", value.shown(), mostWidth())
                                  : fmt::format("top_k is {}, the layer's is {}", value.shown(), layer().top_k));
        top_k_ = uint32_t(value.integer);
        return {};
    }

    template <class T>
    Result<void> room(const Rows<T>& list) const {
        const size_t begin = list.ends.empty() ? 0 : list.ends.back();
        if (list.values.size() - begin < mostWidth()) return {};
        return bad(
            fmt::format("token {}: {} has more than {} numbers", list.ends.size(), kFields[field_], mostWidth()));
    }

    Result<void> expert(const JsonScalar& value) {
        VKMOE_CHECK(room(experts_));
        const size_t token = experts_.ends.size();
        const auto first = experts_.values.begin() + std::ptrdiff_t(token == 0 ? 0 : experts_.ends.back());
        if (value.kind != Kind::integer || (!pool_ && value.integer >= layer().experts))
            return bad(
                fmt::format("token {}: expert {} is not one of 0 to {}", token, value.shown(), layer().experts - 1));
        const auto id = uint32_t(std::min<uint64_t>(value.integer, kNoExpert - 1));
        const bool twice = std::find(first, experts_.values.end(), id) != experts_.values.end();
        if (twice && !pool_ && layer().dispatch != Dispatch::capacity)
            return bad(fmt::format("token {}: expert {} is listed twice", token, value.shown()));
        experts_.values.push_back(id);
        return {};
    }

    Result<void> gate(const JsonScalar& value) {
        VKMOE_CHECK(room(gates_));
        double number = double(value.integer);
        if (value.kind == Kind::number) number = std::strtod(std::string(value.text).c_str(), nullptr);
        const bool is_number = value.kind == Kind::integer || value.kind == Kind::number;
        if (!is_number || !(std::fabs(number) < 0x1p63))
            return bad(fmt::format("token {}: gate {} is not a number below 2^63", gates_.ends.size(), value.shown()));
        gates_.values.push_back(float(number));
        return {};
    }

    // Rows are as long as top_k says, with fixed_budget dispatch and of a pool at most; what they lack is no expert.
    Result<void> finishLayer() {
        for (int field : {kTopK, kExperts, kGates})
            if (!had_[size_t(field)]) return bad(fmt::format("{} is missing", kFields[size_t(field)]));
        for (const auto& [name, rows] :
             {std::pair("experts", experts_.ends.size()), std::pair("gates", gates_.ends.size())})
            if (rows != tokens_) return bad(fmt::format("{} has {} tokens, must have {}", name, rows, tokens_));
        Routes routes;
        routes.top_k = top_k_;
        for (size_t t = 0; t < tokens_; ++t) {
            const size_t length = experts_.length(t);
            if (anyWidth() ? length > top_k_ : length != top_k_)
                return bad(fmt::format("token {}: experts has {} numbers, must have top_k = {}", t, length, top_k_));
            if (gates_.length(t) != length)
                return bad(fmt::format("token {}: experts has {} numbers, gates {}", t, length, gates_.length(t)));
            const auto at = std::ptrdiff_t(experts_.begin(t)), gate_at = std::ptrdiff_t(gates_.begin(t));
            routes.experts.insert(routes.experts.end(), experts_.values.begin() + at,
                                  experts_.values.begin() + at + std::ptrdiff_t(length));
            routes.gates.insert(routes.gates.end(), gates_.values.begin() + gate_at,
                                gates_.values.begin() + gate_at + std::ptrdiff_t(length));
            routes.experts.resize((t + 1) * top_k_, kNoExpert);
            routes.gates.resize((t + 1) * top_k_, 0);
        }
        all_.push_back(std::move(routes));
        experts_ = {};
        gates_ = {};
        return {};
    }

    std::vector<Description> layers_;
    uint64_t tokens_;
    bool stack_, pool_;
    bool in_layers_ = false, in_list_ = false;
    int depth_ = 0;
    Field field_ = kTopK;
    std::array<bool, 3> had_ = {};
    uint32_t top_k_ = 0;
    Rows<uint32_t> experts_;
    Rows<float> gates_;
    std::vector<Routes> all_;
};

}  // namespace

Result<std::vector<Routes>> routesFromFile(const std::string& path, const Stack& stack, uint64_t tokens, bool pool) {
    VKMOE_TRY(file, openFile(path));
    std::vector<Description> layers;
    for (const Layer& layer : stack.layers()) layers.push_back(layer.description());
    RoutesVisitor visitor(std::move(layers), tokens, stack.residual(), pool);
    VKMOE_CHECK(formats::readJson(*file, 0, file->size(), "the file", visitor, {.depth = 6}));
    auto routes = visitor.finish();
    if (!routes) return formats::inFile(path, routes.error());
    return routes;
}

}  // namespace vkmoe::program
