# Compiler flags, and the faster tools where they are installed: ccache in front of the compiler, mold behind it.
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_PCH_EXTSUM=1 CCACHE_NOHASHDIR=1 ${CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  include(CheckLinkerFlag)
  check_linker_flag(CXX -fuse-ld=mold COMPILER_KNOWS_MOLD)  # gcc from 12 on
  if(COMPILER_KNOWS_MOLD)
    # Segments begin on pages of their own, as GNU ld has them. Without it mold 1.10 (Debian 12) links, where the code happens to end in a page's last bytes and
    # a thread_local of one byte comes next (ATen's headers have one), a RELRO range that begins in an unmapped page: such a program does not start.
    add_link_options(-fuse-ld=mold -Wl,-z,separate-code)
  endif()
endif()

add_compile_options(-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -fno-math-errno -fdiagnostics-color=auto)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-fpch-preprocess)  # lets ccache see through the precompiled header
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g")
if(PONTE_SANITIZE)
  add_compile_options(-fsanitize=${PONTE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=${PONTE_SANITIZE})
endif()
# Runtime-dispatched vector code carries its own target attributes, so the binary runs on any x86-64.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
if(PONTE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
