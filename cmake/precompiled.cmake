# Precompiled headers, of libraries alone: vkmoe_precompile(<target> <header>...) adds the standard ones that most files
# take. A SIMD file compiles in half the time, a whole build in nine
# tenths of it. The preset dev compiles without, as whoever forgets an #include will see.
set(vkmoe_standard_headers <algorithm> <array> <bit> <cassert> <cmath> <cstddef> <cstdint> <cstring> <functional> <limits> <memory>
  <numeric> <optional> <span> <string> <string_view> <utility> <vector>)

# Of a header that a compiler cache brings clang must not ask when it was compiled.
add_compile_options("$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")

function(vkmoe_precompile target)
  target_precompile_headers(${target} PRIVATE ${vkmoe_standard_headers} ${ARGN})
endfunction()
