# libpolykv_torch.so: the prefill runner on LibTorch. Found beside the program (lib/polykv); finds LibTorch by its RUNPATH.
set(POLYKV_TORCH_FOUND_DIR "${POLYKV_TORCH_DIR}")
if(NOT POLYKV_TORCH_FOUND_DIR)
  set(POLYKV_TORCH_FOUND_DIR "${PROJECT_SOURCE_DIR}/.deps/site/torch")
endif()
if(NOT EXISTS "${POLYKV_TORCH_FOUND_DIR}/lib/libtorch_cpu.so")
  message(STATUS "LibTorch not found in ${POLYKV_TORCH_FOUND_DIR}: building without libpolykv_torch.so "
    "(./dev setup fetches it, or set POLYKV_TORCH_DIR)")
  return()
endif()

file(GLOB torch_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cli/runtime/torch/*.cpp)
add_library(polykv_torch MODULE ${torch_sources})
target_include_directories(polykv_torch PRIVATE ${PROJECT_SOURCE_DIR})
target_include_directories(polykv_torch SYSTEM PRIVATE ${POLYKV_TORCH_FOUND_DIR}/include)
target_compile_options(polykv_torch PRIVATE -Wno-conversion -Wno-shadow)
target_link_libraries(polykv_torch PRIVATE polykv_runtime
  ${POLYKV_TORCH_FOUND_DIR}/lib/libtorch_cpu.so ${POLYKV_TORCH_FOUND_DIR}/lib/libc10.so)
set_target_properties(polykv_torch PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/polykv
  BUILD_RPATH ${POLYKV_TORCH_FOUND_DIR}/lib
  INSTALL_RPATH ${POLYKV_TORCH_FOUND_DIR}/lib)
install(TARGETS polykv_torch LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/polykv)
