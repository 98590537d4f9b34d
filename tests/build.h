// What the tests know of the build that they are linked into. They themselves are compiled alike in every build.
#pragma once

namespace test {

extern const bool kSanitized;        // what the tests call, which makes it several times slower
extern const char* const kProgram;   // paths: vkmoe,
extern const char* const kMeasured;  // and tests/program/measured.cpp

}  // namespace test
