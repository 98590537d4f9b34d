# The contract tool on files that are no SPIR-V, and on wrong arguments: status 2 and a sentence, no output file.
# cmake -D SHADER= -D OUTPUT= -D GLSLANG= -D TOOL= -P check_garbage.cmake

function(expect words)
    file(REMOVE "${OUTPUT}/never.spv")
    execute_process(COMMAND "${TOOL}" ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
    string(FIND "${err}" "${words}" at)
    if(NOT status EQUAL 2 OR at EQUAL -1 OR EXISTS "${OUTPUT}/never.spv")
        message(FATAL_ERROR "${ARGN}: must end with 2 and say `${words}`, ended with ${status}: ${err}")
    endif()
endfunction()

# The first BYTES bytes of the good module.
function(truncate bytes)
    execute_process(COMMAND head -c ${bytes} "${OUTPUT}/whole.spv" OUTPUT_FILE "${OUTPUT}/part.spv")
endfunction()

set(never "${OUTPUT}/never.spv")
get_filename_component(folder "${SHADER}" DIRECTORY)
execute_process(COMMAND "${GLSLANG}" -V --target-env vulkan1.3 --quiet "-I${folder}"
                        -o "${OUTPUT}/whole.spv" "${SHADER}"
                COMMAND_ERROR_IS_FATAL ANY)

file(WRITE "${OUTPUT}/part.spv" "")
expect("too short for a SPIR-V header (0 words)" "${OUTPUT}/part.spv" "${never}")
file(WRITE "${OUTPUT}/part.spv" "This is text, not SPIR-V, but long enough and of whole words")
expect("wrong magic number" "${OUTPUT}/part.spv" "${never}")
truncate(16)
expect("too short for a SPIR-V header (4 words)" "${OUTPUT}/part.spv" "${never}")
truncate(1002)
expect("no multiple of 4 bytes" "${OUTPUT}/part.spv" "${never}")
truncate(40)
expect("ends inside the instruction" "${OUTPUT}/part.spv" "${never}")
expect("ends inside the instruction" "${OUTPUT}/part.spv" "${never}" --embed part)
expect("ends inside the instruction" "${OUTPUT}/part.spv" --list)
expect("part.comp: ends inside" "${OUTPUT}/part.spv" "${never}" --source part.comp)
expect("cannot be read" "${OUTPUT}/no_such_file.spv" "${never}")
expect("cannot be read" "${OUTPUT}" "${never}")
expect("cannot be written" "${OUTPUT}/whole.spv" "${OUTPUT}/no_such_folder/never.spv")
expect("usage:")
expect("usage:" "${OUTPUT}/whole.spv")
expect("usage:" "${OUTPUT}/whole.spv" "${never}" --unknown)
expect("usage:" "${OUTPUT}/whole.spv" "${never}" --embed)
