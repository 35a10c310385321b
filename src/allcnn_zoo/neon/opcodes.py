"""The pickle language as a lexer: bytes in, opcodes with their arguments out, nothing interpreted.

It knows all opcodes of protocols 0 to 5, so that what is refused can be refused by name. Arguments
are checked against the bytes that are there before anything is done with them; text and bytes come
out as views, so that no length found in a file ever leads to an allocation.

Source: the opcode table in CPython's ``Lib/pickletools.py`` and PEPs 307, 3154 and 574.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, cast

from ..errors import UnsafePickleError

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
    view, position, frame_end = memoryview(data), 0, 0
    name = ""
    while name != "STOP":
        start = position
        if start == len(data):
            raise UnsafePickleError(f"byte {start}: the pickle has no end (STOP)")
        if data[start] not in _INSTRUCTIONS:
            raise UnsafePickleError(f"byte {start}: 0x{data[start]:02x} is no pickle opcode")
        name, form = _INSTRUCTIONS[data[start]]
        try:
            argument, position = _read_argument(data, view, start + 1, form)
        except (ValueError, struct.error):
            raise UnsafePickleError(
                f"byte {start}: {name} goes beyond the end of the file; it is incomplete"
            ) from None
        if start < frame_end < position:  # Python would read something else
            raise UnsafePickleError(f"byte {start}: a frame ends inside {name}")
        if name == "FRAME":
            frame_end = position + len(cast("memoryview", argument))
        if name == "PROTO" and start != 0:
            raise UnsafePickleError(f"byte {start}: a second pickle begins inside the first")
        if name == "PROTO" and cast("int", argument) > 5:
            raise UnsafePickleError(f"pickle protocol {argument} does not exist")
        yield Opcode(start, name, argument)
    if position != len(data):
        extra = len(data) - position
        raise UnsafePickleError(
            f"byte {position}: {extra} bytes follow the end of the pickle; "
            "a neon file is one pickle and nothing else"
        )


class _Form(NamedTuple):
    """What follows an opcode: a number, as many bytes as a number says, or lines of text."""

    number: struct.Struct | None = None
    is_count: bool = False
    is_frame: bool = False  # the bytes counted are more opcodes
    lines: int = 0


def _read_argument(
    data: bytes, view: memoryview, position: int, form: _Form
) -> tuple[Argument, int]:
    """An argument and where it ends; ValueError or struct.error if the file ends before."""
    if form.number is not None:
        (number,) = form.number.unpack_from(data, position)
        position += form.number.size
        if not form.is_count:
            return number, position
        if not 0 <= number <= len(data) - position:
            raise ValueError
        counted = view[position : position + number]
        return counted, position if form.is_frame else position + number
    lines = []
    for _ in range(form.lines):
        end = data.index(b"\n", position)
        lines.append(view[position:end])
        position = end + 1
    if len(lines) == 2:
        return (lines[0], lines[1]), position
    return lines[0] if lines else None, position


_nothing, _line, _two_lines = _Form(), _Form(lines=1), _Form(lines=2)
_u1, _u2, _u4, _i4, _f8 = (_Form(struct.Struct(f)) for f in ("<B", "<H", "<I", "<i", ">d"))
_counted_u1, _counted_u4, _counted_u8, _counted_i4 = (
    _Form(struct.Struct(f), is_count=True) for f in ("<B", "<I", "<Q", "<i")
)
_frame = _counted_u8._replace(is_frame=True)

_INSTRUCTIONS: dict[int, tuple[str, _Form]] = {
    code[0]: (name, form)
    for code, name, form in (
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
