// ResidencyTrace: a recorded history of which experts were used, as JSON.
//
//     {"format":"vkmoe-trace","version":1,
//      "pages":[64,...],              of each group (a layer): its experts
//      "page_bytes":[1572864,...],    of each group: bytes of one page
//      "costs":{"read_bytes_per_second":2e9,"copy_bytes_per_second":8e9,"seconds_per_visit":0.0004},
//      "visits":[[0,[3,17,40,63]],[1,[0,5,9,11]],...]}      group, and what it used, numbered within the group
//
// "costs" may be left out, and so may each of its fields: 0, no time.
#pragma once

#include <string>

#include "host/file.h"
#include "host/replay.h"

namespace vkmoe::formats {

inline constexpr uint64_t kMaxTraceBytes = uint64_t{1} << 28;
inline constexpr uint64_t kMaxTraceVisits = uint64_t{1} << 23;
inline constexpr uint64_t kMaxTraceGroups = uint64_t{1} << 16;
inline constexpr uint64_t kMaxTracePages = uint64_t{1} << 20;      // of all groups
inline constexpr uint64_t kMaxTracePageBytes = uint64_t{1} << 36;  // of one page

// The error names the file, the field and the number.
Result<Trace> readTrace(const ByteSource& file);

// What readTrace reads again, as long as it keeps to the limits above.
Result<void> writeTrace(const std::string& path, const Trace& trace);

}  // namespace vkmoe::formats
