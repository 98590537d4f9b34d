// What the command line asks of values of more than one option.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace vkmoe::program {

// The path of a file that may be left out, but not be empty.
inline const CLI::Validator kPath([](const std::string& text) { return text.empty() ? "the path is empty" : ""; }, "");

// CLI::PositiveNumber, without the largest number in its sentence.
inline const CLI::Validator kAboveZero(
    [](const std::string& text) {
        double number = 0;
        bool fits = CLI::detail::lexical_cast(text, number) && !(number <= 0);
        return fits ? std::string() : text + " is no number above 0";
    },
    "");

}  // namespace vkmoe::program
