# Warnings are errors. Float contraction is off everywhere: the numerics contract rounds every operation (NUMERICS, fast-math never).
# Vulkan structs are filled by name: the members left out are zero on purpose.
add_compile_options(-Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers -ffp-contract=off)
if(VKMOE_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
