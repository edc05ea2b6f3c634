# LibTorch from the wheel, as one interface target without torch's own CMake package (which pulls CUDA and protobuf lookups), and
# the precompiled header every torch folder shares. A CUDA wheel's libraries are linked too: its kernels register themselves when they are loaded, so they
# are kept although nothing names them.
set(torch_lib ${PONTE_TORCH_ROOT}/lib)
add_library(ponte_torch INTERFACE)
target_include_directories(ponte_torch SYSTEM INTERFACE ${PONTE_TORCH_ROOT}/include ${PONTE_TORCH_ROOT}/include/torch/csrc/api/include)
target_compile_options(ponte_torch INTERFACE -D_GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(ponte_torch INTERFACE ${torch_lib}/libtorch.so ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so)
target_link_options(ponte_torch INTERFACE -Wl,-rpath,${torch_lib})
# The OpenMP runtime LibTorch itself uses, so that both share one pool of threads; a wheel carries its own copy, under a name of its own.
file(GLOB torch_openmp ${torch_lib}/libgomp*.so*)
target_link_libraries(ponte_torch INTERFACE $<IF:$<BOOL:${torch_openmp}>,${torch_openmp},gomp>)
file(WRITE ${CMAKE_BINARY_DIR}/pch/empty.cpp "")
add_library(ponte_torch_pch OBJECT ${CMAKE_BINARY_DIR}/pch/empty.cpp)
target_link_libraries(ponte_torch_pch PRIVATE ponte_torch ponte_base nlohmann_json::nlohmann_json)
target_precompile_headers(ponte_torch_pch PRIVATE <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/function.h> <vector> <string> <memory> <functional> <optional>)

# CUDA: PONTE_CUDA asks for it, a CUDA wheel brings it. PONTE_NCCL says whether comm/nccl.cpp is compiled; its headers come from the wheels beside torch
# (nvidia-nccl, nvidia-cuda-runtime), from the CUDA toolkit, or from PONTE_CUDA_INCLUDE.
set(PONTE_NCCL OFF)
if(NOT EXISTS ${torch_lib}/libtorch_cuda.so)
  if(PONTE_CUDA)
    message(FATAL_ERROR "${PONTE_TORCH_ROOT}: a torch wheel without CUDA; the preset cuda needs PONTE_PYTHON to have one with it")
  endif()
  return()
endif()
target_link_libraries(ponte_torch INTERFACE -Wl,--no-as-needed ${torch_lib}/libtorch_cuda.so ${torch_lib}/libc10_cuda.so -Wl,--as-needed)
target_link_options(ponte_torch INTERFACE -Wl,--allow-shlib-undefined)  # CUDA's own libraries are found through those of the wheel
set(PONTE_CUDA_INCLUDE "" CACHE PATH "Further folders with nccl.h or the headers of CUDA")
get_filename_component(packages ${PONTE_TORCH_ROOT} DIRECTORY)
file(GLOB wheel_includes ${packages}/nvidia/*/include)
set(places ${PONTE_CUDA_INCLUDE} /usr/local/cuda/include ${wheel_includes})
set(PONTE_NCCL_HEADERS "")
foreach(header nccl.h cuda_runtime.h crt/host_config.h cusparse.h)  # each may come from another place: toolkits and wheels both lack some
  string(MAKE_C_IDENTIFIER ${header} id)
  find_path(PONTE_HEADER_${id} ${header} HINTS ${places})
  if(NOT PONTE_HEADER_${id})
    message(STATUS "no ${header} in ${places}: built without NCCL, for one card")
    return()
  endif()
  list(APPEND PONTE_NCCL_HEADERS ${PONTE_HEADER_${id}})
endforeach()
list(REMOVE_DUPLICATES PONTE_NCCL_HEADERS)
set(PONTE_NCCL ON)
