# Keeps volk and VMA to ourselves. Both define global names (vkQueueSubmit, vmaMapMemory, struct VmaAllocator_T) that a program with a
# Vulkan of its own defines too, or takes from the loader: linked together, one would call the other's.
#
#   vkmoe_rename_vulkan(<target>)
#
# The sources of <target> see each such name as vkmoe_<name>.
function(vkmoe_rename_vulkan target)
  set(names "")
  foreach(header ${VKMOE_VULKAN_INCLUDE}/volk.h ${VKMOE_VMA_INCLUDE}/vk_mem_alloc.h)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${header})
    file(STRINGS ${header} lines REGEX "(vk|volk|vma|Vma)[A-Z]")
    string(REGEX MATCHALL "[A-Za-z0-9_]+" words "${lines}")
    list(FILTER words INCLUDE REGEX "^(vk|volk|vma|Vma)[A-Z]")
    list(APPEND names ${words})
  endforeach()
  list(REMOVE_DUPLICATES names)
  list(TRANSFORM names REPLACE "(.+)" "#define \\1 vkmoe_\\1\n")
  list(JOIN names "" defines)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/vulkan_names.h)
  file(CONFIGURE OUTPUT ${output} CONTENT "// Written by cmake/vulkan_names.cmake.\n${defines}" @ONLY)
  target_compile_options(${target} PRIVATE "SHELL:-include \"${output}\"")  # quoted: the path may have spaces
endfunction()
