"""A lexer for pickles: bytes in, opcodes with their arguments out, without interpreting them.

All opcodes are known, so that errors can name them. Arguments are checked against the bytes present
before they are used. Text and bytes are returned as views, so a length in a file never leads to an
allocation.

The table is that of Python's `pickletools`, whose reader copies all data and cannot read Python 2
strings.
"""

import pickletools
import struct
from collections.abc import Iterator
from typing import TypeAlias, cast

from ..errors import UnsafePickleError

Argument: TypeAlias = int | float | memoryview | tuple[memoryview, memoryview] | None

_OPCODES = {ord(opcode.code): (opcode.name, opcode.arg) for opcode in pickletools.opcodes}
_NUMBERS = {
    name: struct.Struct(form)
    for name, form in {
        "uint1": "<B",
        "uint2": "<H",
        "int4": "<i",
        "uint4": "<I",
        "uint8": "<Q",
        "float8": ">d",
    }.items()
}
_COUNTS = {  # how many bytes follow
    pickletools.TAKEN_FROM_ARGUMENT1: _NUMBERS["uint1"],
    pickletools.TAKEN_FROM_ARGUMENT4: _NUMBERS["int4"],
    pickletools.TAKEN_FROM_ARGUMENT4U: _NUMBERS["uint4"],
    pickletools.TAKEN_FROM_ARGUMENT8U: _NUMBERS["uint8"],
}


def read_opcodes(data: bytes) -> Iterator[tuple[int, str, Argument]]:
    """Split a pickle into its opcodes, the last of which is STOP at the very end.

    Args:
        data: The whole pickle.

    Yields:
        For each opcode the offset of its first byte, its name as in `pickletools` (``"BINPUT"``),
        and its argument: a number; the bytes of a string, number or line (without its end) as a
        view; two lines for GLOBAL and INST; or None.

    Raises:
        UnsafePickleError: A byte is not an opcode, an argument is truncated, PROTO is misplaced or
            unknown, or STOP is missing or not the last byte.
    """
    position = frame_end = 0
    name = ""
    while name != "STOP":
        start = position
        if start == len(data):
            raise UnsafePickleError(f"byte {start}: the pickle has no end (STOP); it is incomplete")
        if data[start] not in _OPCODES:
            raise UnsafePickleError(f"byte {start}: 0x{data[start]:02x} is not a pickle opcode")
        name, form = _OPCODES[data[start]]
        try:
            argument, position = _read_argument(data, start + 1, form)
        except (ValueError, struct.error):
            raise UnsafePickleError(
                f"byte {start}: {name} goes beyond the end of the file; it is incomplete"
            ) from None
        if start < frame_end < position:  # Python would read something else
            raise UnsafePickleError(f"byte {start}: a frame ends inside {name}")
        if name == "FRAME":
            frame_end = position + cast("int", argument)
        if name == "PROTO" and start != 0:
            raise UnsafePickleError(f"byte {start}: a second pickle begins inside the first")
        if name == "PROTO" and argument not in range(6):
            raise UnsafePickleError(f"pickle protocol {argument} does not exist")
        yield start, name, argument
    if position != len(data):
        extra = len(data) - position
        raise UnsafePickleError(
            f"byte {position}: {extra} bytes follow the end of the pickle; "
            "a neon file is one pickle and nothing else"
        )


def _read_argument(
    data: bytes, start: int, form: pickletools.ArgumentDescriptor | None
) -> tuple[Argument, int]:
    """An argument and where it ends; ValueError or struct.error if the file ends before."""
    if form is None:
        return None, start
    if form.name in _NUMBERS:
        (number,) = _NUMBERS[form.name].unpack_from(data, start)
        end = start + form.n
        if form is pickletools.uint8 and end + number > len(data):  # the opcodes inside a FRAME
            raise ValueError
        return number, end
    if form.n in _COUNTS:
        (count,) = _COUNTS[form.n].unpack_from(data, start)
        start += _COUNTS[form.n].size
        if not 0 <= count <= len(data) - start:
            raise ValueError
        return memoryview(data)[start : start + count], start + count
    end = data.index(b"\n", start)
    line = memoryview(data)[start:end]
    if not form.name.endswith("pair"):
        return line, end + 1
    last = data.index(b"\n", end + 1)
    return (line, memoryview(data)[end + 1 : last]), last + 1
