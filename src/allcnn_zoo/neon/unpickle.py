"""A pickle reader for a closed world: numbers, text, plain containers and numpy arrays.

Nothing in a file is ever executed. The reader is a stack machine of its own over the opcodes such
files consist of; a name in the file is compared with a fixed list and becomes an inert token, which
is never imported; a call or a state is understood only in the exact form that numpy itself writes.
Everything else is refused. There is no list of bad things here, only one of good ones.

What is read is what Python's own pickle would return, with four exceptions: numpy's scalars are
plain numbers, an OrderedDict is a dict, the name of one of neon's classes is text, and arrays
cannot be written to.

Files written by Python 2 and 3, protocols 0 to 5, numpy 1 and 2 are read alike.
"""

import codecs
import enum
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..errors import UnsafePickleError, printable, quote
from .files import DEFAULT_MAX_BYTES, read_file, refuse_other_formats
from .opcodes import Argument, read_opcodes

Array: TypeAlias = npt.NDArray[np.generic]
Scalar: TypeAlias = bool | int | float | str | bytes | None
Tree: TypeAlias = Scalar | Array | list["Tree"] | tuple["Tree", ...] | dict[str | int, "Tree"]

# Budgets. Together they keep time and memory in proportion to the file, whatever is in it.
MAX_OPCODES = 400_000  # the largest known network needs 6,000, a CIFAR-10 batch 40,000
MAX_NESTING = 100
MAX_STRING = 1024  # bytes of a Python 2 string; a longer one can only be the data of an array
MAX_NUMBER = 64  # characters
MAX_INTEGER_KEYS = 1000  # of one dict: Python's hash of an integer is known, so chains can be made
SPARE_BYTES = 64 << 20  # for what is in several places, beside four times the file's size


def read_pickle(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Tree:
    """Read a pickle of plain values and numpy arrays without executing anything.

    Args:
        path: A neon model, a whitening cache, a CIFAR-10 batch.
        max_bytes: Refuse a larger file without reading it.

    Returns:
        Dicts (with text or integer keys), lists, tuples, text, bytes, numbers, booleans, None and
        read-only arrays of numbers. Python 2's strings come back as text, decoded as Latin-1. An
        array may be an unaligned view on the file's bytes, in either byte order. What is in several
        places in the file is one object here, too; nothing contains itself.

    Raises:
        NeonError: The file is missing, unreadable or not a regular file.
        UnsafePickleError: It is not one complete pickle of such values; says where and why.
    """
    data = read_file(path, max_bytes=max_bytes)
    try:
        return read_pickle_bytes(data)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{printable(path)}: {error}") from None


def read_pickle_bytes(data: bytes) -> Tree:
    """Read a pickle that is already in memory; see `read_pickle`.

    Args:
        data: The whole pickle. Arrays in the result are views on it where possible.

    Returns:
        The tree.

    Raises:
        UnsafePickleError: It is not one complete pickle of plain values and arrays.
    """
    refuse_other_formats(data[:512])
    return _Machine(data).run()


class _Name(enum.Enum):
    """The names a file may contain: module and name. They stand for nothing but themselves."""

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


class _Dtype:
    """A dtype as the file spells it: first a code, then, once its state arrives, a byte order."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.numpy: np.dtype[np.generic] | None = None


class _UnbuiltArray:
    """What numpy's ``_reconstruct`` leaves on the stack until the array's state arrives."""

    def __init__(self) -> None:
        self.array: Array | None = None


_ATOMS = frozenset({type(None), bool, int, float, str, bytes})


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._fetched: set[int] = set()  # ids of the containers that may be in several places
        self._integer_keys: Counter[int] = Counter()  # by the id of their dict
        self._bytes_left = len(data) + SPARE_BYTES
        self._position = 0

    def run(self) -> Tree:
        for count, opcode in enumerate(read_opcodes(self._data)):
            self._position = opcode.position
            if count >= MAX_OPCODES:
                self._refuse(f"more than {MAX_OPCODES} opcodes; no neon file is so intricate")
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                self._refuse(
                    f"{opcode.name} is not among the opcodes of plain values and arrays; "
                    "nothing was executed"
                )
            handler(self, opcode.argument)
        result = self._pop()
        if self._stack or self._outer:
            self._refuse("the pickle ends with values left over")
        _Scale(self._fetched, 4 * len(self._data) + SPARE_BYTES).weigh(result)
        return cast("Tree", result)

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsafePickleError(f"byte {self._position}: {reason}")

    # The stack.

    def push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            self._refuse("an opcode finds nothing on the stack")
        return self._stack.pop()

    def take(self, count: int) -> list[object]:
        """The values on top of the stack."""
        return [self._pop() for _ in range(count)][::-1]

    def take_to_mark(self) -> list[object]:
        if not self._outer:
            self._refuse("an opcode finds no mark on the stack")
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def mark(self, _: Argument) -> None:
        self._outer.append(self._stack)
        self._stack = []

    # The memo.

    def put(self, argument: Argument) -> None:
        index = self._index(argument)
        if not self._stack:
            self._refuse("nothing on the stack to remember")
        if not 0 <= index <= MAX_OPCODES:
            self._refuse(f"memo index {index} is out of range")
        if index in self._memo:
            self._refuse(f"memo index {index} is set twice")
        self._memo[index] = self._stack[-1]

    def get(self, argument: Argument) -> None:
        index = self._index(argument)
        if index not in self._memo:
            self._refuse(f"memo index {index} was never set")
        value = self._memo[index]
        if isinstance(value, _UnbuiltArray) and value.array is not None:
            value = value.array
        if isinstance(value, list | tuple | dict):
            self._fetched.add(id(value))
        self.push(value)

    def _index(self, argument: Argument) -> int:
        return argument if isinstance(argument, int) else self._integer(self._line(argument))

    # Scalars.

    def push_int_line(self, argument: Argument) -> None:
        line = self._line(argument)
        booleans = {"00": False, "01": True}  # how protocols 0 and 1 write them
        self.push(booleans[line] if line in booleans else self._integer(line))

    def push_long_line(self, argument: Argument) -> None:
        self.push(self._integer(self._line(argument).removesuffix("L")))

    def push_long(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        if len(view) > 9:  # the largest unsigned 64-bit number needs a ninth byte for its sign
            self._refuse(f"an integer of {len(view)} bytes; eight are the most an array can hold")
        self.push(self._in_range(int.from_bytes(view, "little", signed=True)))

    def push_float_line(self, argument: Argument) -> None:
        line = self._line(argument)
        try:
            number = float(line)
        except ValueError:
            self._refuse(f"{quote(line)} is no number")
        if repr(number) != line:
            self._refuse(f"{quote(line)} is no number as Python writes it")
        self.push(number)

    def _line(self, argument: Argument) -> str:
        view = cast("memoryview", argument)
        if len(view) > MAX_NUMBER:
            self._refuse(f"a number of {len(view)} characters")
        return str(view, "latin-1")

    def _integer(self, line: str) -> int:
        # Python reads more than it writes, and not in all places alike: octal numbers, for one.
        if not re.fullmatch("0|-?[1-9][0-9]{0,19}", line):
            self._refuse(f"{quote(line)} is no integer of 64 bits as Python writes it")
        return self._in_range(int(line))

    def _in_range(self, number: int) -> int:
        if not -(2**63) <= number < 2**64:
            self._refuse("an integer of more than 64 bits")
        return number

    # Text. A long string of Python 2 can only be the data of an array: it stays a view on the file.

    def push_python2_string(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        self.push(view if len(view) > MAX_STRING else str(view, "latin-1"))

    def push_quoted_string(self, argument: Argument) -> None:
        try:
            self.push_python2_string(memoryview(unquote(cast("memoryview", argument))))
        except ValueError as error:
            self._refuse(str(error))

    def push_text(
        self, argument: Argument, decode: Callable[..., tuple[str, int]] = codecs.utf_8_decode
    ) -> None:
        try:
            text, _ = decode(cast("memoryview", argument), "strict", True)
            text.encode()  # escapes can spell halves of characters, which nobody could print
        except UnicodeError:
            self._refuse("text that is not valid Unicode")
        self.push(text)

    # Containers.

    def push_dict(self, _: Argument) -> None:
        items = self.take_to_mark()
        self.push({})
        self.update(items)

    def extend(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not list:
            self._refuse(f"items are appended to {_describe(target)}, which is no list")
        target.extend(items)

    def update(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not dict:
            self._refuse(f"items are set in {_describe(target)}, which is no dict")
        if len(items) % 2:
            self._refuse("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is int:
                self._integer_keys[id(target)] += 1
                if self._integer_keys[id(target)] > MAX_INTEGER_KEYS:
                    self._refuse(f"a dict with more than {MAX_INTEGER_KEYS} integers as keys")
            elif type(key) is not str:
                self._refuse(f"{_describe(key)} is used as a key; keys are text or integers")
            if key in target:
                self._refuse(f"the key {quote(key)} is set twice")
            target[key] = value

    # Names, and the few calls and states that numpy writes.

    def push_name(self, argument: Argument) -> None:
        module, name = cast("tuple[memoryview, memoryview]", argument)
        self._push_name(str(module, "latin-1"), str(name, "latin-1"))

    def push_name_from_stack(self, _: Argument) -> None:
        name, module = self._pop(), self._pop()
        if type(module) is not str or type(name) is not str:
            self._refuse("a global whose module or name is not text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
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

    def call(self, _: Argument) -> None:
        arguments, function = self._pop(), self._pop()
        known = _CALLS.get(function) if isinstance(function, _Name) else None
        if known is None or type(arguments) is not tuple:
            self._refuse(f"a call of {_describe(function)}; nothing was executed")
        known(self, arguments)

    def _call_reconstruct(self, arguments: tuple[object, ...]) -> None:
        base, shape, code = arguments if len(arguments) == 3 else (None, None, None)
        is_empty = type(shape) is tuple and len(shape) == 1 and _is(shape[0], 0)
        if base is not _Name.NDARRAY or not is_empty or not (_is(code, "b") or _is(code, b"b")):
            self._refuse("an array is begun in another way than numpy's")
        self.push(_UnbuiltArray())

    def _call_dtype(self, arguments: tuple[object, ...]) -> None:
        code, *flags = arguments or (None,)
        if type(code) is not str or code not in _DTYPE_CODES:
            self._refuse(f"the dtype {_describe(code)}; only arrays of plain numbers are read")
        # Not to align, but to copy: otherwise numpy changes, with the state, its own dtype.
        if not all(type(flag) in (bool, int) for flag in flags) or flags != [False, True]:
            self._refuse("a dtype is begun in another way than numpy's")
        self.push(_Dtype(code))

    def _call_encode(self, arguments: tuple[object, ...]) -> None:
        text, codec = arguments if len(arguments) == 2 else (None, None)
        if type(text) is not str or not _is(codec, "latin1"):
            self._refuse("bytes are written in another way than Python 3's")
        self.push(self._as_latin1(text))

    def _call_bytes(self, arguments: tuple[object, ...]) -> None:
        if arguments:
            self._refuse("bytes are written in another way than Python 3's")
        self.push(b"")

    def _call_ordered_dict(self, arguments: tuple[object, ...]) -> None:
        # Python 2 gives it a list of pairs, Python 3 sets its items afterwards.
        pairs = arguments[0] if len(arguments) == 1 else [] if not arguments else None
        if type(pairs) is not list or any(type(p) is not list or len(p) != 2 for p in pairs):
            self._refuse("an OrderedDict is written in another way than Python's")
        self.push({})
        self.update([part for pair in pairs for part in pair])

    def _call_scalar(self, arguments: tuple[object, ...]) -> None:
        if len(arguments) != 2:
            self._refuse("a numpy scalar is written in another way than numpy's")
        dtype, data = arguments
        self.push(self._array(dtype, (), data, "C").item())

    def _call_from_buffer(self, arguments: tuple[object, ...]) -> None:
        data, dtype, shape, order, *rest = arguments if len(arguments) > 3 else (None,) * 4
        if not rest and (_is(order, "C") or _is(order, "F")):
            self.push(self._array(dtype, shape, data, "C" if order == "C" else "F"))
        elif len(rest) == 1 and type(rest[0]) is tuple and _is(order, "K"):
            array, axes = self._array(dtype, shape, data, "C"), rest[0]  # numpy 2.3 and later
            if any(type(axis) is not int for axis in axes) or {*axes} != {*range(array.ndim)}:
                self._refuse("an array whose axes are in no order")
            self.push(array.transpose(axes))
        else:
            self._refuse("an array is written in another way than numpy's")

    def build(self, _: Argument) -> None:
        state, target = self._pop(), self._pop()
        if isinstance(target, _Dtype) and isinstance(state, tuple):
            self._build_dtype(target, state)
        elif isinstance(target, _UnbuiltArray) and isinstance(state, tuple):
            self._build_array(target, state)
        else:
            self._refuse(f"a state is set on {_describe(target)}; nothing was executed")

    def _build_dtype(self, target: _Dtype, state: tuple[object, ...]) -> None:
        order = state[1] if len(state) == 8 else None
        expected = (3, order, None, None, None, -1, -1, 0)
        if not all(map(_is, state, expected)) or order not in ("<", ">", "|"):
            self._refuse("a dtype that is more than a plain number, such as a structure")
        if target.numpy is not None or (order == "|") != (target.code[1:] == "1"):
            self._refuse("a dtype whose byte order makes no sense")
        target.numpy = np.dtype(f"{order}{target.code}")
        self.push(target)

    def _build_array(self, target: _UnbuiltArray, state: tuple[object, ...]) -> None:
        version, shape, dtype, flag, data = state if len(state) == 5 else (None,) * 5
        if not _is(version, 1) or type(flag) not in (bool, int) or flag not in (0, 1):
            self._refuse("an array's state is written in another way than numpy's")
        if target.array is not None:
            self._refuse("an array gets a second state")
        target.array = self._array(dtype, shape, data, "F" if flag else "C")
        self.push(target.array)

    def _array(
        self, dtype: object, shape: object, source: object, order: Literal["C", "F"]
    ) -> Array:
        if not isinstance(dtype, _Dtype) or dtype.numpy is None:
            self._refuse(f"an array with {_describe(dtype)} in place of a dtype")
        if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
            self._refuse(f"an array whose shape is {_describe(shape)}")
        if type(source) is str:
            source = self._as_latin1(source)
        if not isinstance(source, bytes | memoryview):
            self._refuse(f"an array with {_describe(source)} in place of its data")
        data = memoryview(source).toreadonly()
        size = dtype.numpy.itemsize
        for extent in shape:
            size *= extent
        try:
            array: Array = np.ndarray(shape, dtype.numpy, data, order=order)
        except (ValueError, TypeError):  # too many dimensions, too large, or too little data
            size = -1
        if size != len(data):
            self._refuse(f"an array whose shape {shape!r:.60} does not fit its {len(data)} bytes")
        if dtype.code == "b1" and (array.view(np.uint8) > 1).any():
            self._refuse("an array of booleans with values other than 0 and 1")
        return array

    def _as_latin1(self, text: str) -> bytes:
        """The bytes that text stands for, each character one. A file may ask for them often."""
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            self._refuse("its values claim more bytes than the file has")
        try:
            return text.encode("latin-1")
        except UnicodeError:
            self._refuse("text beyond Latin-1 in place of bytes")


def _is(value: object, constant: object) -> bool:
    """Equality of scalars that no strange operand can subvert: same type, same value."""
    return type(value) is type(constant) and type(value) in _ATOMS and value == constant


_ESCAPED = re.compile(rb"(?:[^\\]|\\[\\'\"nrt]|\\x[0-9a-f]{2}){1,65536}", re.DOTALL)


def unquote(view: memoryview) -> bytes:
    """Undo Python 2's ``repr`` of a string.

    Raises:
        ValueError: There are no quotes, or there is an escape that Python 2 never writes.
    """
    if len(view) < 2 or view[0] != view[-1] or view[0] not in b"'\"":
        raise ValueError("a string without its quotes")
    inside, position = view[1:-1], 0
    while position < len(inside):  # in pieces, which takes no memory to speak of
        match = _ESCAPED.match(inside, position)
        if match is None:
            raise ValueError("a string with an escape that Python 2 does not write")
        position = match.end()
    return codecs.escape_decode(inside)[0]


class _Scale:
    """What a tree weighs that has everything, also what is shared, wherever it stands.

    So no file grows without measure when its tree is walked or written down. Whatever is no value
    is refused here, too, and what contains itself.
    """

    def __init__(self, shared: set[int], limit: int) -> None:
        self._shared = shared
        self._limit = limit
        self._known: dict[int, tuple[int, int] | None] = {}  # None: its inside is being weighed

    def weigh(self, value: object, depth: int = 0) -> tuple[int, int]:
        """Bytes, about, and levels of containers."""
        if type(value) in _ATOMS:
            return 8 + (4 * len(value) if isinstance(value, str | bytes) else 0), 0
        if isinstance(value, np.ndarray):
            return 64 + value.nbytes, 0
        if not isinstance(value, list | tuple | dict):
            raise UnsafePickleError(f"{_describe(value)} where a plain value or an array belongs")
        key = id(value)
        found = self._known.get(key) if key in self._shared else None
        if found is None:
            if key in self._known:
                raise UnsafePickleError(f"{_describe(value)} contains itself")
            if key in self._shared:
                self._known[key] = None
            found = self._weigh_inside(value, depth)
            if key in self._shared:
                self._known[key] = found
        if depth + found[1] > MAX_NESTING:
            raise UnsafePickleError(f"containers are nested more than {MAX_NESTING} deep")
        return found

    def _weigh_inside(self, container: Any, depth: int) -> tuple[int, int]:
        if depth == MAX_NESTING:
            raise UnsafePickleError(f"containers are nested more than {MAX_NESTING} deep")
        parts: Iterable[object] = container
        if isinstance(container, dict):
            parts = (part for item in container.items() for part in item)
        weight, height = 64, 0
        for part in parts:
            inner_weight, inner_height = self.weigh(part, depth + 1)
            weight, height = weight + inner_weight, max(height, inner_height)
            if weight > self._limit:
                raise UnsafePickleError("what is in several places is more than the file has")
        return weight, height + 1


def _describe(found: object) -> str:
    """Name a thing on the stack in an error message."""
    if isinstance(found, _Name):
        return f"the name {'.'.join(found.value)}"
    if isinstance(found, _Dtype):
        return "a dtype"
    if isinstance(found, _UnbuiltArray):
        return "an unfinished array"
    if isinstance(found, memoryview):
        return f"a string of {len(found)} bytes"
    return quote(found)


_CALLS: dict[_Name, Callable[[_Machine, tuple[object, ...]], None]] = {
    _Name.RECONSTRUCT: _Machine._call_reconstruct,
    _Name.DTYPE: _Machine._call_dtype,
    _Name.ENCODE: _Machine._call_encode,
    _Name.BYTES: _Machine._call_bytes,
    _Name.ORDERED_DICT: _Machine._call_ordered_dict,
    _Name.SCALAR: _Machine._call_scalar,
    _Name.FROM_BUFFER: _Machine._call_from_buffer,
}

_HANDLERS: dict[str, Callable[[_Machine, Argument], None]] = {
    # The lexer has checked all there is to these three.
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    "MARK": _Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine._memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "INT": _Machine.push_int_line,
    "LONG": _Machine.push_long_line,
    **dict.fromkeys(("LONG1", "LONG4"), _Machine.push_long),
    "FLOAT": _Machine.push_float_line,
    # BYTEARRAY8 stays a view: only an array's data can be one.
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "BYTEARRAY8"), _Machine.push),
    "STRING": _Machine.push_quoted_string,
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _Machine.push_python2_string),
    # Not by the codec's name: Python imports a codec when it is first asked for it.
    "UNICODE": lambda machine, line: machine.push_text(line, codecs.raw_unicode_escape_decode),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push_text),
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        lambda machine, view: machine.push(bytes(cast("memoryview", view))),
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
    "DICT": _Machine.push_dict,
    "SETITEM": lambda machine, _: machine.update(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.take_to_mark()),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_name_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
