# Libraries, all from packages. On Debian 12 some come unpacked in .deps/ (cmake/bootstrap.sh).
if(EXISTS ${CMAKE_SOURCE_DIR}/.deps/root)
  list(PREPEND CMAKE_PREFIX_PATH ${CMAKE_SOURCE_DIR}/.deps/root/usr)
endif()

find_package(TBB REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(hwy REQUIRED)
find_package(ICU 72 REQUIRED COMPONENTS uc)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_path(VKMOE_VULKAN_INCLUDE volk.h REQUIRED)
find_path(VKMOE_VMA_INCLUDE vk_mem_alloc.h REQUIRED)
find_path(VKMOE_XXHASH_INCLUDE xxhash.h REQUIRED)
if(VKMOE_SAMPLES)
  find_package(CLI11 REQUIRED)
endif()
if(VKMOE_TESTS)
  find_package(Catch2 3 REQUIRED)
endif()

# Instruction sets that SIMD files are not compiled for: they differ from SSE2 in nothing that is used here.
set(vkmoe_no_simd "HWY_SSSE3|HWY_SSE4")
