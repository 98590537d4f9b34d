# Compiles the kernels of engine/kernels.inc and embeds them.
#
#   vkmoe_add_kernels(<target> <kernels.inc> <shader directory>)
#
# For each line KERNEL(name, Params, exact|rounded, ...) of the list:
#
#   name.comp --glslang--> name.glslang.spv --spirv_contract, spirv-val--> name.spv --> name_spirv.h
#
# all in the build tree. Shaders include "shaders/name.h", as C++ does, or "name.h". <target> then finds
# "kernels_spirv.h", which holds `inline constexpr uint32_t name_spirv[]` for every kernel. A changed shader, included
# header or tool rebuilds what depends on it; a changed list re-runs CMake.
# Needs the target spirv_contract (shaders/CMakeLists.txt).

set(VKMOE_TOOLS "${CMAKE_CURRENT_LIST_DIR}/../.deps/bin")

# vkmoe_find_tool(<variable> <name>...): .deps/bin first, then the system.
function(vkmoe_find_tool variable)
    find_program(${variable} NAMES ${ARGN} HINTS "${VKMOE_TOOLS}")
    if(NOT ${variable})
        list(JOIN ARGN " or " names)
        message(FATAL_ERROR "${names} was not found. Run: sh cmake/bootstrap.sh deps")
    endif()
endfunction()

vkmoe_find_tool(VKMOE_GLSLANG glslang glslangValidator)
vkmoe_find_tool(VKMOE_SPIRV_VAL spirv-val)

# vkmoe_compile_kernel(<name> <exact|rounded> <shader directory> <output directory>)
function(vkmoe_compile_kernel name precision shaders output)
    set(source "${shaders}/${name}.comp")
    set(compiled "${output}/${name}.glslang.spv")
    set(checked "${output}/${name}.spv")
    if(precision STREQUAL "rounded")
        set(fma --fma)
    endif()
    if(name MATCHES "_lanes$")
        set(int64 --int64)  # the host runs them where there are such integers
    endif()

    add_custom_command(
        OUTPUT "${compiled}"
        COMMAND "${VKMOE_GLSLANG}" -V --target-env vulkan1.3 --quiet "-I${shaders}" "-I${shaders}/.."
                --depfile "${compiled}.d" -o "${compiled}" "${source}"
        DEPENDS "${source}" "${VKMOE_GLSLANG}"
        DEPFILE "${compiled}.d"
        COMMENT "Compiling ${name}.comp"
        VERBATIM)
    add_custom_command(
        OUTPUT "${output}/${name}_spirv.h"
        BYPRODUCTS "${checked}"
        COMMAND spirv_contract "${compiled}" "${checked}" ${fma} ${int64} --source "${source}"
        COMMAND "${VKMOE_SPIRV_VAL}" --target-env vulkan1.3 --scalar-block-layout "${checked}"
        COMMAND spirv_contract "${checked}" "${output}/${name}_spirv.h" --embed ${name}
        DEPENDS "${compiled}" spirv_contract
        COMMENT "Checking ${name}.comp"
        VERBATIM)
endfunction()

function(vkmoe_add_kernels target list shaders)
    get_filename_component(list "${list}" ABSOLUTE)
    get_filename_component(shaders "${shaders}" ABSOLUTE)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${list}")
    set(output "${CMAKE_CURRENT_BINARY_DIR}/${target}_kernels")
    file(MAKE_DIRECTORY "${output}")

    set(form "^[ \t]*KERNEL\\([ \t]*([a-z0-9_]+)[ \t]*,[ \t]*[A-Za-z0-9_]+[ \t]*,[ \t]*(exact|rounded)[ \t]*[,)]")
    set(headers "")
    set(includes "// Written by cmake/shaders.cmake.\n#pragma once\n\n")
    file(STRINGS "${list}" lines REGEX "^[ \t]*KERNEL\\(")
    foreach(line IN LISTS lines)
        if(NOT line MATCHES "${form}")
            message(FATAL_ERROR "${list}: not of the form KERNEL(name, Params, exact|rounded, ...): ${line}")
        endif()
        set(name "${CMAKE_MATCH_1}")
        vkmoe_compile_kernel(${name} ${CMAKE_MATCH_2} "${shaders}" "${output}")
        list(APPEND headers "${output}/${name}_spirv.h")
        string(APPEND includes "#include \"${name}_spirv.h\"\n")
    endforeach()

    file(CONFIGURE OUTPUT "${output}/kernels_spirv.h" CONTENT "${includes}" @ONLY)
    add_custom_target(${target}_kernels DEPENDS ${headers})
    add_dependencies(${target} ${target}_kernels)
    target_include_directories(${target} PRIVATE "${output}")
endfunction()
