"""Runs ponte-text-tool, whose frames are a 32-bit count followed by bytes or 32-bit ids."""
import os
import pathlib
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("PONTE_BIN", ROOT / "build" / "release" / "bin"))


def run(arguments, frames):
    """`frames`: bytes each, or lists of ids each."""
    data = b"".join(struct.pack("<I", len(f)) + (f if isinstance(f, bytes) else struct.pack(f"<{len(f)}i", *f)) for f in frames)
    process = subprocess.run([str(BIN / "ponte-text-tool"), *map(str, arguments)], input=data, capture_output=True)
    assert process.returncode == 0, process.stderr.decode(errors="replace")
    return process.stdout


def byte_frames(data):
    out, at = [], 0
    while at < len(data):
        (n,) = struct.unpack_from("<I", data, at)
        out.append(data[at + 4 : at + 4 + n])
        at += 4 + n
    return out


def id_frames(data):
    out, at = [], 0
    while at < len(data):
        (n,) = struct.unpack_from("<I", data, at)
        out.append(list(struct.unpack_from(f"<{n}i", data, at + 4)))
        at += 4 + 4 * n
    return out


def span_frames(data):
    """Frames of (id, begin, end)."""
    return [list(zip(f[::3], f[1::3], f[2::3])) for f in id_frames(data)]
