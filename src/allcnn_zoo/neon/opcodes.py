"""The pickle language as a lexer: bytes in, opcodes with their arguments out, nothing interpreted.

It knows all opcodes of protocols 0 to 5, so that what is refused can be refused by name. Arguments
are checked against the bytes that are there before anything is done with them; text and bytes come
out as views, so that no length found in a file ever leads to an allocation.

Source: the opcode table in CPython's ``Lib/pickletools.py`` and PEPs 307, 3154 and 574.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias, cast

from ..errors import UnsafePickleError

HIGHEST_PROTOCOL = 5

Argument: TypeAlias = int | float | memoryview | tuple[memoryview, memoryview] | None


class Opcode(NamedTuple):
    """One instruction of a pickle.

    Attributes:
        position: Offset of its first byte.
        name: As in ``pickletools``, such as ``"BINPUT"``.
        argument: A number; the bytes of a string, number or line (without its end) as a view; two
            lines for GLOBAL and INST; or None.
    """

    position: int
    name: str
    argument: Argument


def read_opcodes(data: bytes) -> Iterator[Opcode]:
    """Split a pickle into its opcodes, the last of which is STOP at the very end.

    Args:
        data: The whole pickle.

    Yields:
        Every opcode in order.

    Raises:
        UnsafePickleError: A byte is no opcode, an argument is cut off or declares more than there
            is, PROTO is misplaced or unknown, or STOP is missing or not the last byte.
    """
    cursor, frame_end = _Cursor(data), 0
    while True:
        position = cursor.position
        if position == len(data):
            raise UnsafePickleError(f"byte {position}: the pickle has no end (STOP)")
        if data[position] not in _INSTRUCTIONS:
            raise UnsafePickleError(f"byte {position}: 0x{data[position]:02x} is no pickle opcode")
        name, read_argument = _INSTRUCTIONS[data[position]]
        cursor.position += 1
        try:
            argument = read_argument(cursor)
        except _CutOffError:
            raise UnsafePickleError(
                f"byte {position}: {name} goes beyond the end of the file; it is incomplete"
            ) from None
        if position < frame_end < cursor.position:  # Python would read something else
            raise UnsafePickleError(f"byte {position}: a frame ends inside {name}")
        if name == "PROTO":
            _check_protocol(position, argument)
        elif name == "FRAME":
            frame_end = cursor.position + cast("int", argument)
        yield Opcode(position, name, argument)
        if name == "STOP":
            break
    if cursor.position != len(data):
        extra = len(data) - cursor.position
        raise UnsafePickleError(
            f"byte {cursor.position}: {extra} bytes follow the end of the pickle; "
            "a neon file is one pickle and nothing else"
        )


class _CutOffError(Exception):
    """An argument does not fit into the rest of the file."""


class _Cursor:
    """A position in the bytes that can only move over bytes that exist."""

    __slots__ = ("data", "position", "view")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.view = memoryview(data)
        self.position = 0

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise _CutOffError
        taken = self.view[self.position : end]
        self.position = end
        return taken

    def line(self) -> memoryview:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise _CutOffError
        taken = self.view[self.position : end]
        self.position = end + 1
        return taken


def _check_protocol(position: int, argument: Argument) -> None:
    if position != 0:
        raise UnsafePickleError(f"byte {position}: a second pickle begins inside the first")
    if not isinstance(argument, int) or argument > HIGHEST_PROTOCOL:
        raise UnsafePickleError(f"pickle protocol {argument} does not exist")


def _nothing(_: _Cursor) -> None:
    return None


def _number(layout: str) -> "_Reader":
    packed = struct.Struct(layout)

    def read(cursor: _Cursor) -> int | float:
        value: int | float = packed.unpack(cursor.take(packed.size))[0]
        return value

    return read


def _counted(layout: str) -> "_Reader":
    count = struct.Struct(layout)

    def read(cursor: _Cursor) -> memoryview:
        return cursor.take(count.unpack(cursor.take(count.size))[0])

    return read


def _frame(cursor: _Cursor) -> int:
    # A frame only announces how much follows. One that promises too much is a broken file to
    # Python, so it is to us; apart from that frames mean nothing here.
    size = int.from_bytes(cursor.take(8), "little")
    if size > len(cursor.data) - cursor.position:
        raise _CutOffError
    return size


def _two_lines(cursor: _Cursor) -> tuple[memoryview, memoryview]:
    return cursor.line(), cursor.line()


_Reader: TypeAlias = Callable[[_Cursor], Argument]
_Instruction: TypeAlias = tuple[str, _Reader]

_u1, _u2, _u4 = _number("<B"), _number("<H"), _number("<I")
_i4, _f8 = _number("<i"), _number(">d")
_counted_u1, _counted_u4, _counted_u8 = _counted("<B"), _counted("<I"), _counted("<Q")
_counted_i4 = _counted("<i")
_line = _Cursor.line

_INSTRUCTIONS: dict[int, _Instruction] = {
    code[0]: (name, reader)
    for code, name, reader in (
        # frame of the pickle
        (b"\x80", "PROTO", _u1),
        (b"\x95", "FRAME", _frame),
        (b".", "STOP", _nothing),
        # stack and memo
        (b"(", "MARK", _nothing),
        (b"0", "POP", _nothing),
        (b"1", "POP_MARK", _nothing),
        (b"2", "DUP", _nothing),
        (b"p", "PUT", _line),
        (b"q", "BINPUT", _u1),
        (b"r", "LONG_BINPUT", _u4),
        (b"\x94", "MEMOIZE", _nothing),
        (b"g", "GET", _line),
        (b"h", "BINGET", _u1),
        (b"j", "LONG_BINGET", _u4),
        # scalars
        (b"N", "NONE", _nothing),
        (b"\x88", "NEWTRUE", _nothing),
        (b"\x89", "NEWFALSE", _nothing),
        (b"I", "INT", _line),
        (b"J", "BININT", _i4),
        (b"K", "BININT1", _u1),
        (b"M", "BININT2", _u2),
        (b"L", "LONG", _line),
        (b"\x8a", "LONG1", _counted_u1),
        (b"\x8b", "LONG4", _counted_i4),
        (b"F", "FLOAT", _line),
        (b"G", "BINFLOAT", _f8),
        # text and bytes
        (b"S", "STRING", _line),
        (b"T", "BINSTRING", _counted_i4),
        (b"U", "SHORT_BINSTRING", _counted_u1),
        (b"V", "UNICODE", _line),
        (b"X", "BINUNICODE", _counted_u4),
        (b"\x8c", "SHORT_BINUNICODE", _counted_u1),
        (b"\x8d", "BINUNICODE8", _counted_u8),
        (b"B", "BINBYTES", _counted_u4),
        (b"C", "SHORT_BINBYTES", _counted_u1),
        (b"\x8e", "BINBYTES8", _counted_u8),
        (b"\x96", "BYTEARRAY8", _counted_u8),
        (b"\x97", "NEXT_BUFFER", _nothing),
        (b"\x98", "READONLY_BUFFER", _nothing),
        # containers
        (b"]", "EMPTY_LIST", _nothing),
        (b"l", "LIST", _nothing),
        (b"a", "APPEND", _nothing),
        (b"e", "APPENDS", _nothing),
        (b")", "EMPTY_TUPLE", _nothing),
        (b"t", "TUPLE", _nothing),
        (b"\x85", "TUPLE1", _nothing),
        (b"\x86", "TUPLE2", _nothing),
        (b"\x87", "TUPLE3", _nothing),
        (b"}", "EMPTY_DICT", _nothing),
        (b"d", "DICT", _nothing),
        (b"s", "SETITEM", _nothing),
        (b"u", "SETITEMS", _nothing),
        (b"\x8f", "EMPTY_SET", _nothing),
        (b"\x90", "ADDITEMS", _nothing),
        (b"\x91", "FROZENSET", _nothing),
        # names and calls
        (b"c", "GLOBAL", _two_lines),
        (b"\x93", "STACK_GLOBAL", _nothing),
        (b"R", "REDUCE", _nothing),
        (b"b", "BUILD", _nothing),
        (b"i", "INST", _two_lines),
        (b"o", "OBJ", _nothing),
        (b"\x81", "NEWOBJ", _nothing),
        (b"\x92", "NEWOBJ_EX", _nothing),
        (b"\x82", "EXT1", _u1),
        (b"\x83", "EXT2", _u2),
        (b"\x84", "EXT4", _i4),
        (b"P", "PERSID", _line),
        (b"Q", "BINPERSID", _nothing),
    )
}
