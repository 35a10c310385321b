"""A lexer for pickles: bytes in, opcodes with their arguments out, without interpreting them.

All opcodes are known, so that errors can name them. Arguments are checked against the bytes present
before they are used. Text and bytes are returned as views, so a length in a file never leads to an
allocation.

The table and the readers of numbers are those of Python's `pickletools`. Its readers of strings
copy them and cannot read those of Python 2.
"""

import io
import pickletools
from collections.abc import Iterator
from typing import Any

from ..errors import UnsafePickleError

_OPCODES = {ord(opcode.code): (opcode.name, opcode.arg) for opcode in pickletools.opcodes}
_COUNTS = {  # how many bytes follow
    pickletools.TAKEN_FROM_ARGUMENT1: pickletools.uint1,
    pickletools.TAKEN_FROM_ARGUMENT4: pickletools.int4,
    pickletools.TAKEN_FROM_ARGUMENT4U: pickletools.uint4,
    pickletools.TAKEN_FROM_ARGUMENT8U: pickletools.uint8,
}


def read_opcodes(data: bytes) -> Iterator[tuple[int, str, Any]]:
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
        except ValueError:
            raise UnsafePickleError(
                f"byte {start}: {name} goes beyond the end of the file; it is incomplete"
            ) from None
        if start < frame_end < position:  # Python would read something else
            raise UnsafePickleError(f"byte {start}: a frame ends inside {name}")
        if name == "FRAME":
            frame_end = position + argument
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
) -> tuple[Any, int]:
    """An argument and where it ends; ValueError if the file ends before."""
    if form is None:
        return None, start
    if form.n >= 0:
        end = start + form.n
        number = form.reader(io.BytesIO(data[start:end]))
        if form is pickletools.uint8 and end + number > len(data):  # a count, as of FRAME
            raise ValueError
        return number, end
    if form.n in _COUNTS:
        count, start = _read_argument(data, start, _COUNTS[form.n])
        end = start + count
        if not start <= end <= len(data):
            raise ValueError
        return memoryview(data)[start:end], end
    end = data.index(b"\n", start)
    line = memoryview(data)[start:end]
    if not form.name.endswith("pair"):
        return line, end + 1
    last = data.index(b"\n", end + 1)
    return (line, memoryview(data)[end + 1 : last]), last + 1
