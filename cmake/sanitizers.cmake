# ASan and UBSan: vkmoe_sanitize(<target>...) for the engine and for what reads the program's files. The rest of the program
# and the tests are compiled alike in every build, so that a compiler cache has them for the second; the memory that they
# hand over is checked too.
if(VKMOE_SANITIZE)
  add_link_options(-fsanitize=address,undefined)
endif()

# ASan sees null pointers, objects that are too small and pointers that leave them when they are used; files are read with
# memcpy. Without these checks a file compiles in half the time.
function(vkmoe_sanitize)
  if(VKMOE_SANITIZE)
    foreach(target IN LISTS ARGN)
      target_compile_options(${target} PRIVATE -O0 -g1 -UNDEBUG -fsanitize=address,undefined
        -fno-sanitize=null,object-size,vptr,alignment,pointer-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer)
    endforeach()
  endif()
endfunction()
