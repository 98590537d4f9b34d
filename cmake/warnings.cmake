# Warnings are errors. Float contraction is off everywhere: the numerics contract rounds every operation (NUMERICS, fast-math never).
# Vulkan structs are filled by name: the members left out are zero on purpose.
add_compile_options(-Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-restrict)  # gcc 12 warns of std::string's own code at -O3 (GCC bug 105651)
endif()
if(VKMOE_SANITIZE)
  # ASan sees null pointers, objects that are too small and pointers that leave them when they are used; files are read with
  # memcpy. Without these checks a file compiles in half the time.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=null,object-size,vptr,alignment,pointer-overflow
                      -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
