# Compiles SHADER and runs the contract tool on it; the header lines of the shader say what must happen.
#   // expect: WORDS    the tool must refuse it, with these words on stderr (bad_*.comp)
#   // flags: --fma     arguments for the tool
# cmake -D SHADER= -D OUTPUT= -D GLSLANG= -D TOOL= -D SPIRV_VAL= -D ROUNDTRIP= -P check_shader.cmake

function(run)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "${ARGN}\nended with ${status}:\n${out}${err}")
    endif()
endfunction()

# The rest of the lines that start with `// KEY: `.
function(header_lines key variable)
    file(STRINGS "${SHADER}" lines REGEX "^// ${key}: ")
    list(TRANSFORM lines REPLACE "^// ${key}: " "")
    set(${variable} "${lines}" PARENT_SCOPE)
endfunction()

get_filename_component(name "${SHADER}" NAME_WE)
get_filename_component(folder "${SHADER}" DIRECTORY)
set(compiled "${OUTPUT}/${name}.glslang.spv")
set(checked "${OUTPUT}/${name}.spv")
header_lines(expect expected)
header_lines(flags flags)
file(REMOVE "${checked}")

run("${GLSLANG}" -V --target-env vulkan1.3 --quiet "-I${folder}" -o "${compiled}" "${SHADER}")
execute_process(COMMAND "${TOOL}" "${compiled}" "${checked}" ${flags} --source "${name}.comp"
                RESULT_VARIABLE status ERROR_VARIABLE err)

if(name MATCHES "^good_")
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "refused (${status}): ${err}")
    endif()
    run("${SPIRV_VAL}" --target-env vulkan1.3 --scalar-block-layout "${checked}")
    run("${ROUNDTRIP}" "${compiled}" "${checked}")
    return()
endif()

if(NOT status EQUAL 1 OR EXISTS "${checked}" OR NOT expected)
    message(FATAL_ERROR "must be refused with status 1 and write nothing, was ${status}: ${err}")
endif()
foreach(words IN LISTS expected)
    string(FIND "${err}" "${name}.comp: ${words}" whole_sentence)
    string(FIND "${err}" "${words}" anywhere)
    if(anywhere EQUAL -1 OR (words MATCHES "^in " AND whole_sentence EQUAL -1))
        message(FATAL_ERROR "must say `${words}`, said: ${err}")
    endif()
endforeach()
