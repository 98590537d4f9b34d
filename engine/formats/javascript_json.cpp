#include "engine/formats/javascript_json.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

namespace vkmoe::formats {
namespace {

using nlohmann::ordered_json;

// The number is 0.DIGITS * 10^point.
std::string laidOut(const std::string& digits, int point) {
    const int count = int(digits.size());
    if (count <= point && point <= 21) return digits + std::string(size_t(point - count), '0');
    if (0 < point && point <= 21) return digits.substr(0, size_t(point)) + "." + digits.substr(size_t(point));
    if (-6 < point && point <= 0) return "0." + std::string(size_t(-point), '0') + digits;
    const std::string fraction = count > 1 ? "." + digits.substr(1) : "";
    return fmt::format("{}{}e{:+}", digits[0], fraction, point - 1);
}

template <class Values, class Write>
void writeList(std::string& out, const Values& values, const Write& write) {
    bool first = true;
    for (const auto& value : values) {
        if (!first) out += ',';
        first = false;
        write(value);
    }
}

void write(std::string& out, const ordered_json& value) {
    if (value.is_object()) {
        out += '{';
        writeList(out, value.items(), [&](const auto& item) {
            out += ordered_json(item.key()).dump() + ':';
            write(out, item.value());
        });
        out += '}';
    } else if (value.is_array()) {
        out += '[';
        writeList(out, value, [&](const ordered_json& element) { write(out, element); });
        out += ']';
    } else if (value.is_number()) {
        out += javascriptNumber(value.get<double>());  // it has no other numbers
    } else {
        out += value.dump();
    }
}

}  // namespace

std::string javascriptNumber(double number) {
    if (!std::isfinite(number)) return "null";
    if (number == 0) return "0";
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, std::abs(number), std::chars_format::scientific).ptr;
    std::string digits;
    const char* at = text;
    for (; *at != 'e'; ++at)
        if (*at != '.') digits += *at;
    int exponent = 0;
    at += at[1] == '+' ? 2 : 1;  // from_chars takes no plus sign
    std::from_chars(at, end, exponent);
    return (number < 0 ? "-" : "") + laidOut(digits, exponent + 1);
}

std::string javascriptJson(const ordered_json& value) {
    std::string out;
    write(out, value);
    return out;
}

}  // namespace vkmoe::formats
