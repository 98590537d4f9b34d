#include "tests/build.h"

namespace test {

#ifdef __SANITIZE_THREAD__
const bool kSanitized = true;
#else
const bool kSanitized = VKMOE_SANITIZED;
#endif
const char* const kProgram = VKMOE_PROGRAM;
const char* const kMeasured = VKMOE_MEASURED;

}  // namespace test
