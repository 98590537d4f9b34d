// What the HTML reports share: one page each that needs nothing else, in the reader's light or dark colours.
#pragma once

#include <string>

namespace vkmoe::program {

std::string escaped(const std::string& text);

// Everything before the body, style included.
std::string pageHead(const std::string& title);

}  // namespace vkmoe::program
