"""A pickle reader for a closed world: numbers, text, plain containers and numpy arrays.

Nothing in a file is ever executed. The reader is a stack machine of its own for the opcodes of such
files. A name in the file is compared with a fixed list and becomes an inert token, which is never
imported. A call or a state is accepted only in the exact form that numpy writes. Everything else is
refused: there is no list of bad things, only one of good ones.

The result is what Python's own pickle would return, with four exceptions: numpy's scalars become
plain numbers, an OrderedDict a dict, the name of one of neon's classes text, and arrays are
read-only.

Files may be written by Python 2 or 3, with protocols 0 to 5 and numpy 1 or 2.
"""

import codecs
import enum
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import UnsafePickleError, quote
from .files import Source, naming, read_file
from .opcodes import read_opcodes

N = TypeVar("N", int, float)
Array: TypeAlias = npt.NDArray[np.generic]
Scalar: TypeAlias = bool | int | float | str | bytes | None
Tree: TypeAlias = Scalar | Array | list["Tree"] | tuple["Tree", ...] | dict[str | int, "Tree"]

# Limits that keep time and memory proportional to the size of any file.
MAX_OPCODES = 400_000  # the largest known network needs 6,000, a CIFAR-10 batch 40,000
_MAX_NESTING = 100
_MAX_STRING = 1024  # bytes of a Python 2 string; a longer one can only be the data of an array
_MAX_NUMBER = 64  # characters
_MAX_INTEGER_KEYS = 1000  # a file can choose colliding ones, which make a dict slow
_SPARE_BYTES = 64 << 20
_PLACE_BYTES = 128  # counted for each occurrence of a value, in addition to its content


def read_pickle(source: Source) -> Tree:
    """Read a pickle of plain values and numpy arrays without executing anything.

    Args:
        source: A neon model, a whitening cache, a CIFAR-10 batch; or the content of one.

    Returns:
        Dicts (with text or integer keys), lists, tuples, text, bytes, numbers, booleans, None and
        read-only arrays of numbers. Python 2's strings come back as text, decoded as Latin-1. An
        array may be an unaligned view on the file's bytes, in either byte order. What is in several
        places in the file is one object here, too; nothing contains itself.

    Raises:
        NeonError: The file is missing, unreadable or not a regular file.
        UnsafePickleError: It is not one complete pickle of such values; the message says where.
    """
    data = read_file(source)
    with naming(source):
        return _Machine(data).run()


class _Name(enum.Enum):
    """The names that a file may contain: module and name. They are compared, never imported."""

    RECONSTRUCT = ("numpy.core.multiarray", "_reconstruct")  # numpy 2 writes `_core`
    SCALAR = ("numpy.core.multiarray", "scalar")
    FROM_BUFFER = ("numpy.core.numeric", "_frombuffer")
    NDARRAY = ("numpy", "ndarray")
    DTYPE = ("numpy", "dtype")
    ENCODE = ("_codecs", "encode")
    BYTES = ("__builtin__", "bytes")  # Python 3 in protocol 2, for b""
    ORDERED_DICT = ("collections", "OrderedDict")


_NAMES = {name.value: name for name in _Name}
_NEON_CLASS = re.compile(r"neon(\.[A-Za-z_][A-Za-z0-9_]{0,60}){2,9}")

_DTYPE_CODES = frozenset({"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})


class _Unbuilt:
    """An unfinished array or dtype, which gets its state from a later BUILD opcode.

    The memo may refer to it before. `code` is that of a dtype, None for an array.
    """

    def __init__(self, code: str | None = None) -> None:
        self.code = code
        self.built: Array | np.dtype[np.generic] | None = None


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._integer_keys = 0
        self._encoded_left = len(data) + _SPARE_BYTES
        self._written_left = 4 * len(data) + _SPARE_BYTES
        self._position = 0

    def run(self) -> Tree:
        for count, (position, name, argument) in enumerate(read_opcodes(self._data)):
            self._position = position
            if count >= MAX_OPCODES:
                self._refuse(f"more than {MAX_OPCODES} opcodes; no neon file is so intricate")
            handler = _HANDLERS.get(name)
            if handler is None:
                self._refuse(
                    f"{name} is not among the opcodes of plain values and arrays; "
                    "nothing was executed"
                )
            handler(self, argument)
        result = self._pop()
        if self._stack or self._outer:
            self._refuse("the pickle ends with values left over")
        self._weigh(result)
        return cast("Tree", result)

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsafePickleError(f"byte {self._position}: {reason}")

    def _weigh(self, value: object, depth: int = 0) -> None:
        """Count the size of a value once per occurrence, and refuse other things than values.

        With references, a small file can describe a huge or a recursive tree.
        """
        if depth > _MAX_NESTING:
            self._refuse(f"containers are nested more than {_MAX_NESTING} deep, or without end")
        size = _PLACE_BYTES
        if isinstance(value, str | bytes):
            size += 4 * len(value)
        elif isinstance(value, np.ndarray):
            size += value.nbytes
        elif isinstance(value, list | tuple | dict):
            for item in [*value, *value.values()] if isinstance(value, dict) else value:
                self._weigh(item, depth + 1)
        elif not (value is None or isinstance(value, int | float)):
            self._refuse(f"{_describe(value)} where a plain value or an array belongs")
        self._written_left -= size
        if self._written_left < 0:
            self._refuse("what is in several places is more than the file has")

    # The stack.

    def push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            self._refuse("an opcode finds nothing on the stack")
        return self._stack.pop()

    def take(self, count: int) -> list[object]:
        """Pop this many values off the stack."""
        return [self._pop() for _ in range(count)][::-1]

    def take_to_mark(self) -> list[object]:
        if not self._outer:
            self._refuse("an opcode finds no mark on the stack")
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def mark(self, _: None) -> None:
        self._outer.append(self._stack)
        self._stack = []

    # The memo.

    def put(self, argument: int | memoryview) -> None:
        index = self._index(argument)
        if not self._stack:
            self._refuse("nothing on the stack to remember")
        if not 0 <= index <= MAX_OPCODES:
            self._refuse(f"memo index {index} is out of range")
        if index in self._memo:
            self._refuse(f"memo index {index} is set twice")
        self._memo[index] = self._stack[-1]

    def get(self, argument: int | memoryview) -> None:
        index = self._index(argument)
        if index not in self._memo:
            self._refuse(f"memo index {index} was never set")
        value = self._memo[index]
        if isinstance(value, _Unbuilt) and value.built is not None:
            value = value.built
        self.push(value)

    def _index(self, argument: int | memoryview) -> int:
        return argument if isinstance(argument, int) else self._written(argument, int)

    # Scalars.

    def push_int_line(self, line: memoryview) -> None:
        booleans = {b"00": False, b"01": True}  # how protocols 0 and 1 write them
        start = bytes(line[:3])
        self.push(booleans[start] if start in booleans else self._written(line, int))

    def push_long(self, view: memoryview) -> None:
        if len(view) > 9:  # the largest unsigned 64-bit number needs a ninth byte for its sign
            self._refuse(f"an integer of {len(view)} bytes; eight are the most an array can hold")
        self.push(self._in_range(int.from_bytes(view, "little", signed=True)))

    def _written(self, view: memoryview, kind: type[N], suffix: str = "") -> N:
        """A number of protocol 0 or 1, which is text.

        Only as Python writes it: Python reads more, for example octal numbers.
        """
        if len(view) > _MAX_NUMBER:
            self._refuse(f"a number of {len(view)} characters")
        line = str(view, "latin-1").removesuffix(suffix)
        try:
            number = kind(line)
        except ValueError:
            number = None
        if number is None or repr(number) != line:
            self._refuse(f"{quote(line)} is not a number as Python writes it")
        return self._in_range(number) if isinstance(number, int) else number

    def _in_range(self, number: int) -> int:
        if not -(2**63) <= number < 2**64:
            self._refuse("an integer of more than 64 bits")
        return number

    # Text. A long Python 2 string can only be the data of an array: it stays a view on the file.

    def push_string(self, view: memoryview) -> None:
        self.push(view if len(view) > _MAX_STRING else TEXTS["BINSTRING"](view))

    def push_text(self, view: memoryview, decode: Callable[[memoryview], str]) -> None:
        try:
            text = decode(view)
            text.encode()  # escapes can spell lone surrogates, which cannot be printed
        except UnicodeError:
            self._refuse("text that is not valid Unicode")
        except ValueError as error:
            self._refuse(str(error))
        self.push(text)

    # Containers.

    def push_dict(self, items: list[object]) -> None:
        self.push({})
        self.update(items)

    def extend(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not list:
            self._refuse(f"items are appended to {_describe(target)}, which is not a list")
        target.extend(items)

    def update(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not dict:
            self._refuse(f"items are set in {_describe(target)}, which is not a dict")
        if len(items) % 2:
            self._refuse("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is int:
                self._integer_keys += 1
                if self._integer_keys > _MAX_INTEGER_KEYS:
                    self._refuse(f"more than {_MAX_INTEGER_KEYS} integers as keys")
            elif type(key) is not str:
                self._refuse(f"{_describe(key)} is used as a key; keys are text or integers")
            if key in target:
                self._refuse(f"the key {quote(key)} is set twice")
            target[key] = value

    # Names, and the few calls and states that numpy writes.

    def push_name(self, lines: tuple[memoryview, memoryview] | None) -> None:
        if lines is None:  # STACK_GLOBAL
            name, module = self._pop(), self._pop()
            if type(module) is not str or type(name) is not str:
                self._refuse("a global whose module or name is not text")
        else:
            module, name = (str(line, "latin-1") for line in lines)
        full_name = f"{module}.{name}"
        if known := _NAMES.get((module.replace("numpy._core.", "numpy.core.", 1), name)):
            self.push(known)
        elif _NEON_CLASS.fullmatch(full_name):
            self.push(full_name)
        else:
            self._refuse(
                f"the file names {quote(full_name)}, which plain values and arrays do not need; "
                "it was neither imported nor called"
            )

    def call(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            self._refuse(f"a call of {_describe(function)}; nothing was executed")
        match function, arguments:
            case _Name.DTYPE, (code, align, copy):
                self._push_dtype(code, align, copy)
            case _Name.RECONSTRUCT, (base, (size,), code) if base is _Name.NDARRAY:
                if not _is(size, 0) or not (_is(code, "b") or _is(code, b"b")):
                    self._refuse("an array is begun in another way than numpy's")
                self.push(_Unbuilt())
            case _Name.ENCODE, (str(text), codec) if _is(codec, "latin1"):
                self.push(self._as_latin1(text))
            case ((_Name.BYTES | _Name.ORDERED_DICT), ()):
                self.push(b"" if function is _Name.BYTES else {})
            case _Name.ORDERED_DICT, (list(pairs),) if all(
                type(pair) is list and len(pair) == 2 for pair in pairs
            ):  # Python 2
                self.push_dict([part for pair in pairs for part in pair])
            case _Name.SCALAR, (dtype, data):
                self.push(self._array(dtype, (), data, "C").item())
            case _Name.FROM_BUFFER, (data, dtype, shape, order, *axes):
                self._push_buffer(data, dtype, shape, order, axes)
            case _:
                self._refuse(f"{_describe(function)} is called in another way than Python calls it")

    def _push_dtype(self, code: object, align: object, copy: object) -> None:
        if type(code) is not str or code not in _DTYPE_CODES:
            self._refuse(f"the dtype {_describe(code)}; only arrays of plain numbers are read")
        # numpy writes align=False, copy=True. Without a copy, BUILD would change numpy's dtype.
        if not (isinstance(align, int) and isinstance(copy, int)) or (align, copy) != (False, True):
            self._refuse("a dtype is begun in another way than numpy's")
        self.push(_Unbuilt(code))

    def _push_buffer(
        self, data: object, dtype: object, shape: object, order: object, axes: list[object]
    ) -> None:
        if not axes and (_is(order, "C") or _is(order, "F")):
            self.push(self._array(dtype, shape, data, order))
            return
        array = self._array(dtype, shape, data, "C")
        permutation = axes[0] if len(axes) == 1 and _is(order, "K") else None  # numpy 2.3 and later
        if type(permutation) is not tuple or any(type(axis) is not int for axis in permutation):
            self._refuse("an array is written in another way than numpy's")
        if sorted(permutation) != [*range(array.ndim)]:
            self._refuse("an array whose axes are in no order")
        self.push(array.transpose(permutation))

    def build(self, _: None) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, _Unbuilt) or type(state) is not tuple:
            self._refuse(f"a state is set on {_describe(target)}; nothing was executed")
        if target.built is not None:
            self._refuse("a dtype or an array gets a second state")
        if target.code is None:
            version, shape, dtype, flag, data = state if len(state) == 5 else (None,) * 5
            if not _is(version, 1) or type(flag) not in (bool, int) or flag not in (0, 1):
                self._refuse("an array's state is written in another way than numpy's")
            target.built = self._array(dtype, shape, data, "F" if flag else "C")
        else:
            order = state[1] if len(state) == 8 else None
            expected = (3, order, None, None, None, -1, -1, 0)
            is_plain = type(order) is str and order in ("<", ">", "|")
            if not is_plain or not all(map(_is, state, expected)):
                self._refuse("a dtype that is more than a plain number, such as a structure")
            if (order == "|") != (target.code[1:] == "1"):
                self._refuse("a dtype whose byte order makes no sense")
            target.built = np.dtype(f"{order}{target.code}")
        self.push(target.built)

    def _array(self, dtype: object, shape: object, source: object, order: Any) -> Array:
        if not isinstance(dtype, np.dtype):
            self._refuse(f"an array with {_describe(dtype)} in place of a dtype")
        if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
            self._refuse(f"an array whose shape is {_describe(shape)}")
        if type(source) is str:
            source = self._as_latin1(source)
        if not isinstance(source, bytes | memoryview):
            self._refuse(f"an array with {_describe(source)} in place of its data")
        data = memoryview(source).toreadonly()
        size = math.prod(shape, start=dtype.itemsize)
        try:
            array: Array = np.ndarray(shape, dtype, data, order=order)
        except (ValueError, TypeError):  # too many dimensions, too large, or too little data
            size = -1
        if size != len(data):
            self._refuse(f"an array whose shape {shape!r:.60} does not fit its {len(data)} bytes")
        if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
            self._refuse("an array of booleans with values other than 0 and 1")
        return array

    def _as_latin1(self, text: str) -> bytes:
        """Encode text whose characters stand for bytes. A file may ask for the same ones often."""
        self._encoded_left -= len(text)
        if self._encoded_left < 0:
            self._refuse("its values claim more bytes than the file has")
        try:
            return text.encode("latin-1")
        except UnicodeError:
            self._refuse("text beyond Latin-1 in place of bytes")


def _is(value: object, constant: object) -> bool:
    """Whether two scalars are equal and of the same type: True is not 1 here."""
    return type(value) is type(constant) and value == constant


def _unquote(view: memoryview) -> str:
    """Undo Python 2's ``repr`` of a string."""
    if len(view) < 2 or view[0] != view[-1] or view[0] not in b"'\"":
        raise ValueError("a string without its quotes")
    inside = bytes(view[1:-1])
    if re.search(rb"\\(?!['\"nrt]|x[0-9a-f]{2})", inside.replace(rb"\\", b"")):
        raise ValueError("a string with an escape that Python 2 does not write")
    return codecs.escape_decode(inside)[0].decode("latin-1")


# Not by the codecs' names: Python imports a codec on first use.
TEXTS: dict[str, Callable[[memoryview], str]] = {
    "STRING": _unquote,
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda view: str(view, "latin-1")),
    "UNICODE": lambda view: codecs.raw_unicode_escape_decode(view, "strict", True)[0],
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        lambda view: codecs.utf_8_decode(view, "strict", True)[0],
    ),
}
"""The opcodes that push text, and how to decode it: a ValueError where that fails."""


def _describe(found: object) -> str:
    """Name a value on the stack for an error message."""
    if isinstance(found, _Name):
        return f"the name {'.'.join(found.value)}"
    if isinstance(found, _Unbuilt):
        return "an unfinished array or dtype"
    if isinstance(found, np.dtype):
        return "a dtype"
    if isinstance(found, memoryview):
        return f"a string of {len(found)} bytes"
    return quote(found)


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    # The lexer has checked these three completely.
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    "MARK": _Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine._memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "INT": _Machine.push_int_line,
    "LONG": lambda machine, line: machine.push(machine._written(line, int, "L")),
    **dict.fromkeys(("LONG1", "LONG4"), _Machine.push_long),
    "FLOAT": lambda machine, line: machine.push(machine._written(line, float)),
    # BYTEARRAY8 stays a view: only an array's data can be one.
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "BYTEARRAY8"), _Machine.push),
    **{name: partial(_Machine.push_text, decode=decode) for name, decode in TEXTS.items()},
    "BINSTRING": _Machine.push_string,
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        lambda machine, view: machine.push(bytes(view)),
    ),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.take_to_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.take_to_mark()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push_dict(machine.take_to_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.take_to_mark()),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.push_name),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
