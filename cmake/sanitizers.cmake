# ASan and UBSan for what a folder compiles that calls vkmoe_sanitize(): the engine and its samples. The tests are compiled
# alike in every build, so that a compiler cache has them for the second; the memory that they hand over is checked too.
if(VKMOE_SANITIZE)
  add_link_options(-fsanitize=address,undefined)
endif()

# ASan sees null pointers, objects that are too small and pointers that leave them when they are used; files are read with
# memcpy. Without these checks a file compiles in half the time.
macro(vkmoe_sanitize)
  if(VKMOE_SANITIZE)
    add_compile_options(-O0 -g1 -UNDEBUG -fsanitize=address,undefined
                        -fno-sanitize=null,object-size,vptr,alignment,pointer-overflow -fno-sanitize-recover=all
                        -fno-omit-frame-pointer)
  endif()
endmacro()
