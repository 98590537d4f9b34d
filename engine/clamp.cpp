#include "engine/clamp.h"

#include <fmt/format.h>

#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

namespace vkmoe {
inline namespace v1 {
namespace {

using Json = nlohmann::json;

DeviceLimits noClamp() {
    constexpr uint32_t most = std::numeric_limits<uint32_t>::max();
    DeviceLimits limits;
    limits.memory_budget = limits.max_allocation = std::numeric_limits<uint64_t>::max();
    limits.max_groups = limits.max_invocations = limits.shared_memory = limits.subgroup_size = most;
    limits.round_to_nearest = limits.preserve_special = limits.subgroup_broadcast = true;
    limits.host_import_alignment = 1;
    return limits;
}

template <class T>
bool take(const Json& value, T& limit) {
    if constexpr (std::is_same_v<T, bool>) {
        if (!value.is_boolean()) return false;
    } else {
        if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<T>::max()) return false;
    }
    limit = value.get<T>();
    return limit != T{} || std::is_same_v<T, bool>;  // a device without any is none
}

bool takeOrNone(const Json& value, uint64_t& limit) {
    return take(value, limit) || (value.is_number_unsigned() && value.get<uint64_t>() == 0);
}

}  // namespace

Result<DeviceLimits> clampFromJson(const std::string& text) {
    Json json = Json::parse(text, nullptr, false);
    if (!json.is_object())
        return Error{ErrorCode::bad_input, "VKMOE_CLAMP is not a JSON object: " + text.substr(0, 100)};
    DeviceLimits limits = noClamp();
    for (const auto& [key, value] : json.items()) {
        bool good = key == "memory_budget"           ? take(value, limits.memory_budget)
                    : key == "max_allocation"        ? take(value, limits.max_allocation)
                    : key == "max_groups"            ? take(value, limits.max_groups)
                    : key == "max_invocations"       ? take(value, limits.max_invocations)
                    : key == "shared_memory"         ? take(value, limits.shared_memory)
                    : key == "subgroup_size"         ? take(value, limits.subgroup_size)
                    : key == "round_to_nearest"      ? take(value, limits.round_to_nearest)
                    : key == "subgroup_broadcast"    ? take(value, limits.subgroup_broadcast)
                    : key == "host_import_alignment" ? takeOrNone(value, limits.host_import_alignment)
                    : key == "preserve_special"      ? take(value, limits.preserve_special)
                                                     : false;
        if (!good)
            return Error{ErrorCode::bad_input, fmt::format("the clamp: {} = {} is no limit of a device", key,
                                                           value.is_structured() ? value.type_name() : value.dump())};
    }
    return limits;
}

Result<std::optional<DeviceLimits>> clampFromEnvironment() {
    const char* text = std::getenv("VKMOE_CLAMP");
    if (!text || !*text) return std::optional<DeviceLimits>();
    VKMOE_TRY(limits, clampFromJson(text));
    return std::optional<DeviceLimits>(limits);
}

}  // namespace v1
}  // namespace vkmoe
