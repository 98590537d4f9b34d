# cmake --install: a tree that can be moved, for find_package(vkmoe), which gives vkmoe::vkmoe, and for pkg-config vkmoe.
include(CMakePackageConfigHelpers)

# While the major version is 0 the minor one tells what is compatible.
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(VKMOE_SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  set(VKMOE_COMPATIBILITY SameMinorVersion)
else()
  set(VKMOE_SOVERSION ${PROJECT_VERSION_MAJOR})
  set(VKMOE_COMPATIBILITY SameMajorVersion)
endif()

# ---- libraries and the program ----------------------------------------------------------------------------------------

# Headers include each other as "vkmoe/x.h", "host/x.h", "shaders/x.h": all lie in one folder, which users name.
set(VKMOE_HEADERS ${CMAKE_INSTALL_INCLUDEDIR}/vkmoe)
set(VKMOE_PACKAGE ${CMAKE_INSTALL_LIBDIR}/cmake/vkmoe)

set_target_properties(vkmoe_engine PROPERTIES EXPORT_NAME vkmoe)
set_target_properties(vkmoe_host PROPERTIES EXPORT_NAME host)
foreach(library vkmoe_host vkmoe_engine)
  set_target_properties(${library} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${VKMOE_SOVERSION} INSTALL_RPATH "$ORIGIN")
  target_compile_features(${library} PUBLIC cxx_std_20)
endforeach()
install(TARGETS vkmoe_host vkmoe_engine EXPORT vkmoeTargets INCLUDES DESTINATION ${VKMOE_HEADERS})

if(TARGET vkmoe)
  file(RELATIVE_PATH bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(vkmoe PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  install(TARGETS vkmoe)
endif()

# ---- headers ----------------------------------------------------------------------------------------------------------

# install_headers(<folder in the repository> <folder among the headers> <name>...)
function(install_headers from to)
  list(TRANSFORM ARGN PREPEND ${PROJECT_SOURCE_DIR}/${from}/)
  install(FILES ${ARGN} DESTINATION ${VKMOE_HEADERS}/${to})
endfunction()

install(DIRECTORY ${PROJECT_SOURCE_DIR}/engine/include/vkmoe DESTINATION ${VKMOE_HEADERS} FILES_MATCHING PATTERN "*.h")
install_headers(host host buffer.h commands.h device.h faults.h file.h kernel.h page_groups.h page_reader.h page_store.h pager.h probe_bandwidth.h
  residency.h result.h slots.h staging.h transfer.h)
install_headers(engine engine kernels.inc)
install_headers(engine/formats engine/formats evl0.h moe0.h tensor_source.h)
# Not exact_math.h: the linker could take a copy of its functions that a user compiled with fast-math for the engine's.
install_headers(shaders shaders constants.h params.h params_backward.h params_language.h pointers.h)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# ---- packages ---------------------------------------------------------------------------------------------------------

add_library(vkmoe::vkmoe ALIAS vkmoe_engine)
install(EXPORT vkmoeTargets NAMESPACE vkmoe:: DESTINATION ${VKMOE_PACKAGE})
configure_file(${CMAKE_CURRENT_LIST_DIR}/vkmoeConfig.cmake.in ${PROJECT_BINARY_DIR}/vkmoeConfig.cmake @ONLY)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/vkmoeConfigVersion.cmake COMPATIBILITY ${VKMOE_COMPATIBILITY})
install(FILES ${PROJECT_BINARY_DIR}/vkmoeConfig.cmake ${PROJECT_BINARY_DIR}/vkmoeConfigVersion.cmake DESTINATION ${VKMOE_PACKAGE})

# Whoever links the static libraries links what they need; the shared ones bring it along.
set(VKMOE_PC_REQUIRES "")
set(VKMOE_PC_LIBS "")
if(NOT BUILD_SHARED_LIBS)
  set(VKMOE_PC_REQUIRES "fmt libhwy tbb icu-uc zlib")
  set(VKMOE_PC_LIBS "-pthread -ldl")
endif()
file(RELATIVE_PATH VKMOE_PC_TO_HEADERS ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR}/vkmoe)
configure_file(${CMAKE_CURRENT_LIST_DIR}/vkmoe.pc.in ${PROJECT_BINARY_DIR}/vkmoe.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/vkmoe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
