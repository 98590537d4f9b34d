#include "engine/formats/description_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/formats/checked.h"
#include "engine/formats/safetensors.h"
#include "engine/formats/strict_json.h"

namespace vkmoe::formats {
namespace {

enum class Type { boolean, count, real, named };

// A field of the JSON: how its value reaches a description, and comes from one.
struct Field {
    const char* name;
    Type type;
    void (*set)(DescriptionFields&, uint32_t word, float number);
    uint32_t (*word)(const Description&);
    float (*number)(const Description&);
    const char* (*value_name)(uint32_t);
    uint32_t values;  // of a named one
};

#define VKMOE_BOOLEAN(field)                                                                                          \
    {                                                                                                                 \
#field, Type::boolean,                                                                                        \
            [](DescriptionFields & f, uint32_t w,                                                                     \
               float) { f.description.field = w != 0; },                                                              \
                                                      [](const Description& d) -> uint32_t { return d.field; },       \
                                                                                                             nullptr, \
                                                                                                             nullptr, \
                                                                                                             0        \
    }
#define VKMOE_COUNT(field)                                                                                             \
    {                                                                                                                  \
#field, Type::count,                                                                                           \
            [](DescriptionFields & f, uint32_t w,                                                                      \
               float) { f.description.field = w; }, [](const Description& d) -> uint32_t { return d.field; }, nullptr, \
                                                                                                           nullptr, 0  \
    }
#define VKMOE_REAL(field)                                                                                            \
    {                                                                                                                \
#field, Type::real,                                                                                          \
            [](DescriptionFields & f, uint32_t,                                                                      \
               float x) { f.description.field = x; }, nullptr,                                                       \
                                                   [](const Description& d) -> float { return d.field; }, nullptr, 0 \
    }
#define VKMOE_NAMED(field, Enum, values)                                                                   \
    {                                                                                                      \
#field, Type::named, [](DescriptionFields& f, uint32_t w, float) { f.description.field = Enum(w); },     \
     [](const Description& d) -> uint32_t { return uint32_t(d.field); }, nullptr,                              \
     [](uint32_t w) -> const char* { return vkmoe::name(Enum(w)); }, values \
    }

constexpr Field kFields[] = {
    VKMOE_NAMED(score, Score, 3),
    {"top_k", Type::count,
     [](DescriptionFields& f, uint32_t w, float) {
         f.description.top_k = w;
         f.has_top_k = true;
     },
     [](const Description& d) -> uint32_t { return d.top_k; }, nullptr, nullptr, 0},
    VKMOE_BOOLEAN(renormalize),
    VKMOE_REAL(renormalize_epsilon),
    VKMOE_REAL(routed_scale),
    {"router_bias", Type::boolean, [](DescriptionFields& f, uint32_t w, float) { f.router_bias = w != 0; },
     [](const Description& d) -> uint32_t { return d.router_bias; }, nullptr, nullptr, 0},
    {"selection_bias", Type::boolean, [](DescriptionFields& f, uint32_t w, float) { f.selection_bias = w != 0; },
     [](const Description& d) -> uint32_t { return d.selection_bias; }, nullptr, nullptr, 0},
    // The tensors say these two; a file may repeat them, and none that is written here does.
    {"biases", Type::boolean, [](DescriptionFields& f, uint32_t w, float) { f.biases = w != 0; }, nullptr, nullptr,
     nullptr, 0},
    {"shared_dim", Type::count, [](DescriptionFields& f, uint32_t w, float) { f.shared_dim = w; }, nullptr, nullptr,
     nullptr, 0},
    VKMOE_COUNT(groups),
    VKMOE_COUNT(groups_kept),
    VKMOE_NAMED(group_score, GroupScore, 2),
    VKMOE_NAMED(dispatch, Dispatch, 3),
    VKMOE_REAL(capacity_factor),
    VKMOE_REAL(tokens_per_expert_ratio),
    VKMOE_REAL(noise_std),
    VKMOE_COUNT(noise_seed),
    VKMOE_NAMED(activation, Activation, 4),
    VKMOE_REAL(swiglu_limit),
    VKMOE_REAL(swiglu_alpha),
    {"shared", Type::named, [](DescriptionFields& f, uint32_t w, float) { f.shared = Shared(w); },
     [](const Description& d) -> uint32_t { return uint32_t(d.shared); }, nullptr,
     [](uint32_t w) -> const char* { return vkmoe::name(Shared(w)); }, 3},
    VKMOE_NAMED(shared_order, SharedOrder, 2),
};

#undef VKMOE_BOOLEAN
#undef VKMOE_COUNT
#undef VKMOE_REAL
#undef VKMOE_NAMED

std::string expectedValue(const Field& field) {
    switch (field.type) {
        case Type::boolean:
            return "true or false";
        case Type::count:
            return "an integer of 0 to 4294967295";
        case Type::real:
            return "0, or a number of 1.4e-45 to 3.4e38 in size";  // what f32 holds
        case Type::named:
            break;
    }
    std::string names;
    for (uint32_t i = 0; i < field.values; ++i)
        names += fmt::format("{}{}", i == 0 ? "" : i + 1 == field.values ? " or " : ", ", field.value_name(i));
    return names;
}

std::optional<float> realOf(const JsonScalar& value) {
    if (value.kind == JsonScalar::Kind::integer) return static_cast<float>(value.integer);
    if (value.kind != JsonScalar::Kind::number) return {};
    float number = 0;
    const auto end = value.text.data() + value.text.size();
    const auto [parsed, failure] = std::from_chars(value.text.data(), end, number);
    if (failure != std::errc() || parsed != end || !std::isfinite(number)) return {};
    return number;
}

std::optional<uint32_t> wordOf(const Field& field, const JsonScalar& value) {
    if (field.type == Type::boolean && value.kind == JsonScalar::Kind::boolean) return value.boolean;
    if (field.type == Type::count && value.kind == JsonScalar::Kind::integer && value.integer <= UINT32_MAX)
        return static_cast<uint32_t>(value.integer);
    if (field.type == Type::named && value.kind == JsonScalar::Kind::string)
        for (uint32_t i = 0; i < field.values; ++i)
            if (value.text == field.value_name(i)) return i;
    return {};
}

// N of "layers.N", written without leading zeros.
std::optional<uint32_t> layerNumber(std::string_view name) {
    constexpr std::string_view kPrefix = "layers.";
    if (!name.starts_with(kPrefix)) return {};
    name.remove_prefix(kPrefix.size());
    uint32_t number = 0;
    const auto [end, failure] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (failure != std::errc() || end != name.data() + name.size() || number >= kMaxLayers) return {};
    if (name.size() > 1 && name.front() == '0') return {};
    return number;
}

}  // namespace

class DescriptionVisitor : public JsonVisitor {
public:
    explicit DescriptionVisitor(DescriptionJson& json) : json_(json), into_(&json.common_) {}
    // Of a text that holds only this layer's fields.
    DescriptionVisitor(DescriptionJson& json, uint32_t layer)
        : json_(json), into_(&json.layers_[layer]), layer_(layer), level_(1), apart_(true) {}

    Result<void> startObject() override {
        if (level_ == 0 || (level_ == 1 && layer_)) return ++level_, Result<void>();
        return wrong("an object");
    }
    Result<void> endObject() override {
        into_ = &json_.common_;
        layer_.reset();
        --level_;
        return {};
    }
    Result<void> startArray() override { return wrong("an array"); }
    Result<void> endArray() override { return {}; }
    Result<void> key(std::string_view name) override {
        if (level_ == 1)
            if (const auto number = layerNumber(name)) return layer(*number);
        const auto found = std::find_if(std::begin(kFields), std::end(kFields),
                                        [&](const Field& field) { return name == field.name; });
        if (found == std::end(kFields)) return refused(fmt::format("{}{} is an unknown field", place(), shown(name)));
        field_ = size_t(found - std::begin(kFields));
        if (std::any_of(into_->begin(), into_->end(), [&](const auto& given) { return given.field == field_; }))
            return refused(fmt::format("{}{} is there twice", place(), name));
        return {};
    }
    Result<void> scalar(const JsonScalar& value) override {
        if (level_ == 0 || (level_ == 1 && layer_)) return wrong(value.shown());
        const Field& field = kFields[field_];
        const std::optional<float> number = field.type == Type::real ? realOf(value) : std::nullopt;
        const std::optional<uint32_t> word = wordOf(field, value);
        if (!number && !word) return wrong(value.shown());
        into_->push_back({field_, number.value_or(0), word.value_or(0)});
        return {};
    }

private:
    std::string place() const {
        if (!layer_) return "vkmoe.moe: ";
        return fmt::format("{}layers.{}: ", apart_ ? "" : "vkmoe.moe ", *layer_);
    }
    Result<void> wrong(const std::string& found) const {
        if (level_ == 0) return refused(fmt::format("vkmoe.moe is {}, must be an object", found));
        if (level_ == 1 && layer_)
            return refused(
                fmt::format("{}layers.{} is {}, must be an object", apart_ ? "" : "vkmoe.moe: ", *layer_, found));
        return refused(fmt::format("{}{} is {}, must be {}", place(), kFields[field_].name, found,
                                   expectedValue(kFields[field_])));
    }
    Result<void> layer(uint32_t number) {
        const auto [at, added] = json_.layers_.try_emplace(number);
        if (!added) return refused(fmt::format("vkmoe.moe: layers.{} is there twice", number));
        layer_ = number;
        into_ = &at->second;
        return {};
    }

    DescriptionJson& json_;
    std::vector<DescriptionJson::Given>* into_;
    std::optional<uint32_t> layer_;
    uint32_t level_ = 0;
    bool apart_ = false;
    size_t field_ = 0;
};

Result<DescriptionJson> DescriptionJson::read(const std::string& file,
                                              const std::map<std::string, std::string>& metadata) {
    DescriptionJson json;
    bool described = false;
    if (const auto common = metadata.find(kDescriptionKey); common != metadata.end()) {
        DescriptionVisitor visitor(json);
        VKMOE_CHECK(readJson(file, common->second, kDescriptionKey, visitor));
        described = true;
    }
    for (const auto& [key, text] : metadata) {
        const auto number = layerNumber(key);
        if (!number && key != kDescriptionKey && isOurKey(key))
            return inputError(file, fmt::format("__metadata__ has {}, which is unknown", shown(key)));
        if (!number) continue;
        if (json.layers_.contains(*number)) return inputError(file, fmt::format("{} is there twice", key));
        DescriptionVisitor visitor(json, *number);
        VKMOE_CHECK(readJson(file, text, key.c_str(), visitor));
        described = true;
    }
    if (described) return json;
    return inputError(file, fmt::format("is no layer file: its __metadata__ has no {}", kDescriptionKey));
}

void DescriptionJson::apply(const std::vector<Given>& fields, DescriptionFields& to) {
    for (const Given& given : fields) kFields[given.field].set(to, given.word, given.number);
}

DescriptionFields DescriptionJson::layer(uint32_t number) const {
    DescriptionFields fields;
    apply(common_, fields);
    if (const auto own = layers_.find(number); own != layers_.end()) apply(own->second, fields);
    return fields;
}

std::optional<uint32_t> DescriptionJson::lastLayer() const {
    if (layers_.empty()) return {};
    return layers_.rbegin()->first;
}

// --------------------------------------------------------------------------------------------------------- writing

namespace {

// The shortest text that reads back as the same float; JSON has no infinities, and no description has any.
std::string valueText(const Field& field, const Description& d) {
    switch (field.type) {
        case Type::boolean:
            return field.word(d) != 0 ? "true" : "false";
        case Type::count:
            return std::to_string(field.word(d));
        case Type::real:
            return fmt::format("{}", field.number(d));
        case Type::named:
            return fmt::format("\"{}\"", field.value_name(field.word(d)));
    }
    return "null";
}

std::string fieldsText(const Description& d, const Description* unless_as_in) {
    std::string text;
    for (const Field& field : kFields) {
        if (field.word == nullptr && field.number == nullptr) continue;
        const std::string value = valueText(field, d);
        if (unless_as_in != nullptr && value == valueText(field, *unless_as_in)) continue;
        text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", field.name, value);
    }
    return text;
}

}  // namespace

std::string descriptionToJson(std::span<const Description> layers) {
    std::string text = fieldsText(layers[0], nullptr);
    for (size_t i = 1; i < layers.size(); ++i)
        if (const std::string own = fieldsText(layers[i], &layers[0]); !own.empty())
            text += fmt::format(",\"layers.{}\":{{{}}}", i, own);
    return "{" + text + "}";
}

}  // namespace vkmoe::formats
