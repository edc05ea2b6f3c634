# LibTorch from the wheel, as one interface target without torch's own CMake package (which pulls CUDA and protobuf lookups), and
# the precompiled header every torch folder shares.
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
