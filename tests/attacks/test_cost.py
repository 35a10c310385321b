"""No file costs more than six times its size and 64 MB, nor time out of proportion to it."""

import contextlib
import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest

from allcnn_zoo.errors import NeonError
from allcnn_zoo.neon import inspect_pickle, read_pickle
from allcnn_zoo.neon.unpickle import MAX_OPCODES

from .assemble import DTYPE, ENCODE, LITTLE_ENDIAN, array, integer, text

SPARE = 64 << 20
LARGE = 2_000_000
BYTES = DTYPE + b"U\x02u1K\x00K\x01\x87R" + LITTLE_ENDIAN.replace(b"<", b"|")


def _numbered(pattern: bytes, count: int, again: bytes = b"") -> bytes:
    packed = (struct.pack("<I", number) for number in range(count))
    return b"".join(pattern + each + again.replace(b"#", each) for each in packed)


# Pickles of about so many opcodes, each of which takes as much memory as it can.
INTRICATE: dict[str, Callable[[int], bytes]] = {
    "empty dicts": lambda count: b"(" + b"}" * count + b"l.",
    "dicts": lambda count: b"(" + b"}K\x01Ns" * (count // 4) + b"l.",
    "remembered dicts": lambda count: b"(" + b"}\x94" * (count // 2) + b"l.",
    "lists": lambda count: b"(" + b"]Na" * (count // 3) + b"l.",
    "tuples": lambda count: b"N" + b"\x85" * count + b".",
    "memo": lambda count: b"N" + b"\x94" * count + b".",
    "memo by index": lambda count: b"N" + _numbered(b"r", count) + b".",
    "one list again": lambda count: b"((NlN" + b"q\x00h\x00" + b"h\x00" * count + b"l.",
    "lists again": lambda count: b"(" + _numbered(b"]Nar", count // 5, b"j#") + b"l.",
    "long integers": lambda count: b"(" + _numbered(b"\x8a\x08\xff\xff\xff\x7f", count) + b"l.",
    "short texts": lambda count: b"(" + _numbered(b"U\x04", count) + b"l.",
    "keys": lambda count: b"}" + b"".join(
        b"X\x07\x00\x00\x00%07dNs" % number for number in range(count // 3)
    ) + b".",
    "keys that collide": lambda count: b"}(" + _numbered(b"\x8a\x08" + bytes(4), 999, b"N") + b"u"
    + b"0" * count + b".",
    "names": lambda count: b"cmodule\nname\n" * count + b".",
}  # fmt: skip


def _bytes_array(data: bytes, size: int) -> bytes:
    return array(shape=integer(size) + b"\x85", dtype=BYTES, data=data) + b"."


def _encoded(written: bytes) -> bytes:
    return ENCODE + written + text("latin1") + b"\x86R"


# Pickles of many bytes in few opcodes.
VOLUMINOUS: dict[str, Callable[[int], bytes]] = {
    "string": lambda size: b"T" + struct.pack("<I", size) + bytes(size) + b".",
    "line": lambda size: b"V" + b"x" * size + b"\n.",
    "texts": lambda size: b"(" + text("x" * 1000) * (size // 1000) + b"l.",
    "wide texts": lambda size: b"(" + text("\N{GRINNING FACE}" + "x" * 1000) * (size // 1000)
    + b"l.",
    "array": lambda size: _bytes_array(b"T" + struct.pack("<I", size) + bytes(size), size),
    "encoded array": lambda size: _bytes_array(_encoded(text("\0" * size)), size),
    "encoded array of Latin-1": lambda size: _bytes_array(_encoded(text("\xff" * size)), size),
    "array on a line": lambda size: _bytes_array(_encoded(b"V" + b"\xff" * size + b"\n"), size),
    "array in quotes": lambda size: _bytes_array(b"S'" + b"\xff" * size + b"'\n", size),
    "array of escapes": lambda size: _bytes_array(b"S'" + b"\\x00" * size + b"'\n", size),
    "array that is not there": lambda size: _bytes_array(b"U\x00", 1 << 40) + bytes(size),
}  # fmt: skip


@pytest.mark.parametrize("kind", INTRICATE)
def test_memory_and_time_are_in_proportion_to_the_opcodes(kind: str) -> None:
    # A part of the opcodes allowed may take that part of the memory.
    data = INTRICATE[kind](MAX_OPCODES // 32)
    assert _peak(inspect_pickle, data) < 5 * len(data) + SPARE // 32
    _require_linear(inspect_pickle, INTRICATE[kind], 2_000)


@pytest.mark.parametrize("kind", VOLUMINOUS)
def test_memory_and_time_are_in_proportion_to_the_bytes(kind: str) -> None:
    data = VOLUMINOUS[kind](LARGE)
    assert _peak(read_pickle, data) < 5 * len(data) + (1 << 20)
    _require_linear(read_pickle, VOLUMINOUS[kind], 100_000)


def _require_linear(
    act: Callable[[bytes], object], build: Callable[[int], bytes], size: int
) -> None:
    # Eight times the work takes about eight times the time; in the square it would be 64 times.
    assert _seconds(act, build(8 * size)) < 25 * _seconds(act, build(size)) + 0.02


def _peak(act: Callable[[bytes], object], data: bytes) -> int:
    """Memory taken beside the file's own bytes."""
    tracemalloc.start()
    try:
        with contextlib.suppress(NeonError):
            act(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seconds(act: Callable[[bytes], object], data: bytes) -> float:
    """The least of two measurements, of this process alone."""
    measured = []
    for _ in range(2):
        start = time.process_time()
        with contextlib.suppress(NeonError):
            act(data)
        measured.append(time.process_time() - start)
    return min(measured)
