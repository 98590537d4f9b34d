# Warnings are errors. Float contraction is off everywhere: the numerics contract rounds every operation (NUMERICS, fast-math never).
# Vulkan structs are filled by name: the members left out are zero on purpose.
add_compile_options(-Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-restrict)  # gcc 12 warns of std::string's own code at -O3 (GCC bug 105651)
endif()
