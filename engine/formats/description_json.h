// DescriptionJson: layers' descriptions as the JSON in a layer file's __metadata__["vkmoe.moe"].
//
//     {"score":"softmax","top_k":8,"renormalize":true,"activation":"silu_glu","shared":"sigmoid_gated"}
//
// Field names are those of Description; those left out keep its defaults, top_k must be given. Dimensions and biases
// are the tensors' to say: router_bias, selection_bias, biases (of any of the experts' matrices), shared and shared_dim
// may be repeated here, and must then agree with them.
// In a stack, "layers.N" holds an object with layer N's own fields, which come before the common ones: as a field of
// this JSON, or as a text of its own, __metadata__["layers.N"]; where every layer has one, the common text may be left
// out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/result.h"
#include "vkmoe/description.h"

namespace vkmoe::formats {

inline constexpr const char* kDescriptionKey = "vkmoe.moe";  // in __metadata__
inline constexpr uint32_t kMaxLayers = 1024;                 // of a stack

// What the JSON says of one layer. Dimensions and biases of `description` are not set.
struct DescriptionFields {
    Description description;
    bool has_top_k = false;
    std::optional<bool> router_bias, selection_bias, biases;
    std::optional<Shared> shared;
    std::optional<uint32_t> shared_dim;
};

class DescriptionJson {
public:
    // `file` is whose metadata it is. An unknown field, value or type is an error that names it, and so is a key of the
    // metadata that begins with "vkmoe." or "layers." and means nothing.
    static Result<DescriptionJson> read(const std::string& file, const std::map<std::string, std::string>& metadata);

    DescriptionFields layer(uint32_t number) const;
    // The highest layer with fields of its own, or nothing if there is none.
    std::optional<uint32_t> lastLayer() const;

private:
    friend class DescriptionVisitor;

    // One field's value: a number in a table of fields, and the value as text or number.
    struct Given {
        size_t field;
        float number;
        uint32_t word;  // of an integer, a boolean or a named value
    };
    static void apply(const std::vector<Given>& fields, DescriptionFields& to);

    std::vector<Given> common_;
    std::map<uint32_t, std::vector<Given>> layers_;
};

// All fields as one JSON object; for several descriptions, what they share and one object for each that differs.
std::string descriptionToJson(std::span<const Description> layers);

}  // namespace vkmoe::formats
