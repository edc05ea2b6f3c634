#!/usr/bin/env python3
"""Gathers what building Ponte needs besides a compiler, CMake, ninja, CUDA's nvcc and a torch wheel: headers and libraries, in one folder that goes to a
machine without package registries.

    tools/bundle.py [--to build/bundle] [--cuda-python PYTHON]     here, where tools/setup.sh has installed the packages
    cmake --preset cuda -DPONTE_BUNDLE=build/bundle -DPONTE_PYTHON=... there

--cuda-python: an interpreter with a CUDA torch wheel; NCCL's and CUDA's headers beside it come along. The folder is of one processor architecture and at
most 40 MiB; shared libraries lie under the names the loader asks for, those they need in turn beside them (but not the C and C++ libraries).
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys

MOST_BYTES = 40 << 20
# Imported target: package whose headers it needs, library (None: headers alone).
TARGETS = {
    "nlohmann_json::nlohmann_json": ("nlohmann-json3-dev", None),
    "fmt::fmt": ("libfmt-dev", "libfmt.so"),
    "yaml-cpp": ("libyaml-cpp-dev", "libyaml-cpp.so"),
    "CLI11::CLI11": ("libcli11-dev", None),
    "ZLIB::ZLIB": ("zlib1g-dev", "libz.so"),
    "CURL::libcurl": ("libcurl4-openssl-dev", "libcurl.so"),
    "PkgConfig::ZSTD": ("libzstd-dev", "libzstd.so"),
    "PkgConfig::XXHASH": ("libxxhash-dev", "libxxhash.so"),
    "PkgConfig::PCRE2": ("libpcre2-dev", "libpcre2-8.so"),
    "PkgConfig::UTF8PROC": ("libutf8proc-dev", "libutf8proc.so"),
    "PkgConfig::SIMDJSON": ("libsimdjson-dev", "libsimdjson.so"),
    "PkgConfig::CRYPTO": ("libssl-dev", "libcrypto.so"),
    "GTest::gtest": ("libgtest-dev", "libgtest.a"),
    "GTest::gtest_main": ("libgtest-dev", "libgtest_main.a"),
}
DEFINITIONS = {"fmt::fmt": "FMT_SHARED", "PkgConfig::SIMDJSON": "SIMDJSON_THREADS_ENABLED=1"}
HEADERS_ALONE = ["libgloo-dev"]
SYSTEM = re.compile(r"^(ld-linux|linux-vdso|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+)\.so)")


def files_of(package):
    return [pathlib.Path(line) for line in subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout.splitlines()]


def copy_headers(package, to):
    for file in files_of(package):
        parts = file.parts
        if parts[:3] != ("/", "usr", "include") or file.is_dir():
            continue
        rest = parts[3:]
        if rest[0].endswith("-linux-gnu"):  # of this architecture: first in every search anyway
            rest = rest[1:]
        if file.suffix in (".cc", ".cpp"):
            continue
        target = to.joinpath(*rest)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def library_of(package, name):
    for file in files_of(package):
        if file.name == name:
            return file
    sys.exit(f"{package}: it has no {name}")


def soname(file):
    found = re.search(r"\(SONAME\).*\[(.*)\]", subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout)
    return found[1] if found else file.name


def copy_library(file, to):
    """Copies it, and what it loads; its file name there."""
    if file.suffix == ".a":
        shutil.copyfile(file, to / file.name)
        return file.name
    real = file.resolve()
    name = soname(real)
    shutil.copyfile(real, to / name)
    for line in subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout.splitlines():
        needed = re.match(r"\s*(\S+) => (/\S+)", line)
        if needed and not SYSTEM.match(needed[1]) and not (to / needed[1]).exists():
            shutil.copyfile(pathlib.Path(needed[2]).resolve(), to / needed[1])
    return name


def copy_cuda_headers(python, to):
    root = subprocess.run([python, "-c", "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('torch').origin).parent.parent)"],
                          capture_output=True, text=True, check=True).stdout.strip()
    found = False
    for folder in pathlib.Path(root, "nvidia").glob("*/include"):
        for header in folder.glob("*.h"):
            if re.match(r"(cu(?!dnn|fft|rand|pti|file)|nccl|library_types|driver_types|vector_types|host_|device_|builtin_types|surface_types|texture_types|channel_desc)",
                        header.name):
                shutil.copyfile(header, to / header.name)
                found = found or header.name == "nccl.h"
        for inner in ("nccl_device", "crt"):
            if (folder / inner).is_dir():
                shutil.copytree(folder / inner, to / inner, dirs_exist_ok=True)
    if not found:
        sys.exit(f"{python}: no nccl.h beside its torch")


def cmake_text(libraries):
    lines = ["# Made by tools/bundle.py: the libraries of cmake/Dependencies.cmake out of this folder.",
             "get_filename_component(bundle ${CMAKE_CURRENT_LIST_DIR} ABSOLUTE)",
             "add_link_options(-Wl,--disable-new-dtags)  # the libraries find each other through the programs' search path",
             'set(PONTE_CUDA_INCLUDE ${bundle}/cuda CACHE PATH "")']
    for target, library in libraries.items():
        kind = "INTERFACE" if library is None else "STATIC" if library.endswith(".a") else "SHARED"
        lines.append(f"add_library({target} {kind} IMPORTED GLOBAL)")
        lines.append(f"set_target_properties({target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${{bundle}}/include)")
        if library:
            lines.append(f"set_target_properties({target} PROPERTIES IMPORTED_LOCATION ${{bundle}}/lib/{library})")
        if target in DEFINITIONS:
            lines.append(f"set_target_properties({target} PROPERTIES INTERFACE_COMPILE_DEFINITIONS {DEFINITIONS[target]})")
    return "\n".join(lines) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[1] / "build/bundle")
    arguments.add_argument("--cuda-python", help="an interpreter whose torch is a CUDA wheel")
    options = arguments.parse_args()
    if options.to.exists():
        shutil.rmtree(options.to)
    for part in ("include", "lib", "cuda"):
        (options.to / part).mkdir(parents=True)
    for package in sorted({package for package, _ in TARGETS.values()} | set(HEADERS_ALONE)):
        copy_headers(package, options.to / "include")
    libraries = {target: library and copy_library(library_of(package, library), options.to / "lib") for target, (package, library) in TARGETS.items()}
    if options.cuda_python:
        copy_cuda_headers(options.cuda_python, options.to / "cuda")
    (options.to / "bundle.cmake").write_text(cmake_text(libraries))
    size = sum(file.stat().st_size for file in options.to.rglob("*") if file.is_file())
    print(f"{options.to}: {size / (1 << 20):.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
