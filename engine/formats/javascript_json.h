// JavascriptJson: JSON as JavaScript's JSON.stringify writes it, without spaces.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace vkmoe::formats {

// The shortest digits that give the number back: 5, 1.5, 1e+21, 1e-7; null for what is not finite. -0 is 0.
std::string javascriptNumber(double number);

// Strings are UTF-8, and stay it.
std::string javascriptJson(const nlohmann::ordered_json& value);

}  // namespace vkmoe::formats
