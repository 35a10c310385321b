"""A pickle reader for a closed world: numbers, text, plain containers and numpy arrays.

Nothing in a file is ever executed. The reader is a stack machine of its own over the opcodes such
files consist of; a name in the file is compared with a fixed list and becomes an inert token, which
is never imported; a call or a state is understood only in the exact form that numpy itself writes.
Everything else is refused. There is no list of bad things here, only one of good ones.

What a tree can become is bounded as well, by what genuine files look like:

* the number of opcodes, which bounds the stack, the memo, the tree and the time;
* the nesting of containers, the length of text and of numbers;
* text and arrays together take hardly more bytes than the file has, and an array's data is a view
  on the file wherever it is stored plainly;
* the memo hands out again only names, scalars, and short containers of scalars, such as the padding
  that several layers share; a list or dict as a copy, so that each has one place in the tree. What
  is handed out again is paid for. So there are no cycles, and walking a tree costs what reading it
  did.

Files written by Python 2 and 3, protocols 0 to 5, numpy 1 and 2 are read alike.
"""

import enum
import os
import re
from collections.abc import Callable
from typing import Literal, NoReturn, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..errors import UnsafePickleError, printable, quote
from .buffers import Buffer, Encoding, unescape
from .files import DEFAULT_MAX_BYTES, read_file, refuse_other_formats
from .opcodes import Argument, read_opcodes

Array: TypeAlias = npt.NDArray[np.generic]
Scalar: TypeAlias = bool | int | float | str | bytes | None
Tree: TypeAlias = "Scalar | Array | list[Tree] | tuple[Tree, ...] | dict[str | int, Tree]"
_Container: TypeAlias = "list[Tree] | dict[str | int, Tree]"

MAX_OPCODES = 400_000  # the largest known network needs 6,000, a CIFAR-10 batch 40,000
MAX_NESTING = 100
MAX_TEXT_BYTES = 1024  # anything longer can only be the data of an array
MAX_DIMENSIONS = 32
SPARE_BYTES = 16 << 20  # text beyond Latin-1 takes up to four times its bytes in the file
MAX_SHARED_ITEMS = 64
# What a byte of text costs that is handed out again: as JSON, it may take six times its space.
SHARED_COST = 8


def read_pickle(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Tree:
    """Read a pickle of plain values and numpy arrays without executing anything.

    Args:
        path: A neon model, a whitening cache, a CIFAR-10 batch.
        max_bytes: Refuse a larger file without reading it.

    Returns:
        Dicts (with text or integer keys), lists, tuples, text, bytes, numbers, booleans, None and
        read-only arrays of numbers. Python 2's strings come back as text, decoded as Latin-1. An
        array may be an unaligned view on the file's bytes, in either byte order.

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
    tree = _Machine(data).run()
    _check_nesting(tree)
    return tree


class _Name(enum.Enum):
    """The names a file may contain. They stand for nothing but themselves."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    SCALAR = "numpy.core.multiarray.scalar"
    FROM_BUFFER = "numpy.core.numeric._frombuffer"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _Name.FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Name.FROM_BUFFER,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}

_DTYPE_CODES = frozenset({"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})


class _Dtype:
    """A dtype as the file spells it: first a code, then, once its state arrives, a byte order."""

    __slots__ = ("code", "numpy")

    def __init__(self, code: str) -> None:
        self.code = code
        self.numpy: np.dtype[np.generic] | None = None


class _UnbuiltArray:
    """What numpy's ``_reconstruct`` leaves on the stack until the array's state arrives."""


class _Arguments(tuple[object, ...]):
    """A tuple that holds something which is not a value: fit for a call or a state, not a tree."""

    __slots__ = ()


_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
_VALUES = _ATOMS | {np.ndarray, list, tuple, dict}


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}
        # Containers that are in two places, their copies, and how much was in them then.
        self._shared: list[tuple[_Container, _Container, int]] = []
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
        result = self._pop_value()
        if self._stack or self._outer:
            self._refuse("the pickle ends with values left over")
        self._check_shared()
        return result

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsafePickleError(f"byte {self._position}: {reason}")

    def _spend(self, size: int) -> None:
        if size > self._bytes_left:
            self._refuse("its values claim more bytes than the file has")
        self._bytes_left -= size

    # The stack.

    def push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        if not self._stack:
            self._refuse("an opcode finds nothing on the stack")
        return self._stack.pop()

    def _as_value(self, found: object) -> Tree:
        if type(found) not in _VALUES:
            self._refuse(f"{_describe(found)} where a plain value or an array belongs")
        return cast("Tree", found)

    def _pop_value(self) -> Tree:
        return self._as_value(self._pop())

    def _pop_items(self) -> list[object]:
        if not self._outer:
            self._refuse("an opcode finds no mark on the stack")
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def mark(self, _: Argument) -> None:
        if len(self._outer) >= MAX_NESTING:
            self._refuse(f"containers are nested more than {MAX_NESTING} deep")
        self._outer.append(self._stack)
        self._stack = []

    def ignore(self, _: Argument) -> None:
        """PROTO, FRAME and STOP: the lexer has checked all there is to them."""

    # The memo.

    def put(self, argument: Argument) -> None:
        self._remember(cast("int", argument))

    def put_line(self, argument: Argument) -> None:
        self._remember(self._integer(argument))

    def memoize(self, _: Argument) -> None:
        self._remember(len(self._memo))

    def _remember(self, index: int) -> None:
        if not self._stack:
            self._refuse("nothing on the stack to remember")
        if not 0 <= index <= MAX_OPCODES:
            self._refuse(f"memo index {index} is out of range")
        if index in self._memo:
            self._refuse(f"memo index {index} is set twice")
        self._memo[index] = self._stack[-1]

    def get(self, argument: Argument) -> None:
        index = cast("int", argument)
        if index not in self._memo:
            self._refuse(f"memo index {index} was never set")
        value = self._memo[index]
        if not _may_be_shared(value):
            self._refuse(
                f"{_describe(value)} is used in two places; in a neon file only scalars and short"
                " containers of them are"
            )
        self._spend(SHARED_COST * _cost(value))
        if type(value) is list or type(value) is dict:
            value = self._copy(value)
        self.push(value)

    def _copy(self, container: "_Container") -> object:
        """The same again. For Python both are one, so neither may change any more."""
        copy = container.copy()
        self._shared.append((container, copy, len(copy)))
        return copy

    def _check_shared(self) -> None:
        """Refuse what changed after it was used again: containers can only grow."""
        for original, copy, size in self._shared:
            if not len(original) == len(copy) == size:
                self._refuse(f"{_describe(original)} changes after it was used in two places")

    def get_line(self, argument: Argument) -> None:
        self.get(self._integer(argument))

    # Scalars.

    def push_none(self, _: Argument) -> None:
        self.push(None)

    def push_true(self, _: Argument) -> None:
        self.push(True)

    def push_false(self, _: Argument) -> None:
        self.push(False)

    def push_number(self, argument: Argument) -> None:
        self.push(argument)

    def push_int_line(self, argument: Argument) -> None:
        booleans = {b"00": False, b"01": True}  # how protocols 0 and 1 write them
        line = self._short(argument)
        self.push(booleans[line] if line in booleans else self._integer(argument))

    def push_long_line(self, argument: Argument) -> None:
        self.push(self._integer(argument))

    def push_long(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        if len(view) > 9:  # the largest unsigned 64-bit number needs a ninth byte for its sign
            self._refuse(f"an integer of {len(view)} bytes; eight are the most an array can hold")
        self.push(self._in_range(int.from_bytes(view, "little", signed=True)))

    def push_float_line(self, argument: Argument) -> None:
        line = self._short(argument)
        try:
            self.push(float(line))
        except ValueError:
            self._refuse(f"{quote(line)} is no number")

    def _short(self, argument: Argument) -> bytes:
        view = cast("memoryview", argument)
        if len(view) > MAX_TEXT_BYTES:
            self._refuse(f"a number or name of {len(view)} characters")
        return bytes(view)

    def _integer(self, argument: Argument) -> int:
        line = self._short(argument)
        if not re.fullmatch(rb"-?[0-9]{1,20}L?", line):
            self._refuse(f"{quote(line)} is no integer of at most 20 digits")
        return self._in_range(int(line.removesuffix(b"L")))

    def _in_range(self, number: int) -> int:
        # Python's hash of an integer is known to everyone. Within 64 bits only a few integers
        # share one, so no file can make a dict slow.
        if not -(2**63) <= number < 2**64:
            self._refuse("an integer of more than 64 bits")
        return number

    # Text and bytes. Short ones become values at once; long ones can only be array data, and wait
    # as they are until it is known how many bytes of data they must hold.

    def push_bytes(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        if len(view) > MAX_TEXT_BYTES:
            self.push(Buffer(view))
        else:
            self._spend(len(view))
            self.push(bytes(view))

    def push_bytearray(self, argument: Argument) -> None:
        self.push(Buffer(cast("memoryview", argument)))

    def push_python2_string(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        if len(view) > MAX_TEXT_BYTES:
            self.push(Buffer(view))
        else:
            self._push_short_text(str(view, "latin-1"))

    def push_quoted_string(self, argument: Argument) -> None:
        view = cast("memoryview", argument)
        if len(view) < 2 or view[0] != view[-1] or view[0] not in b"'\"":
            self._refuse("a string without its quotes")
        try:
            data = unescape(view[1:-1])
        except ValueError:
            self._refuse("a string with an escape that Python 2 does not write")
        self.push_python2_string(memoryview(data))

    def push_text(self, argument: Argument) -> None:
        self._push_text(cast("memoryview", argument), "utf-8")

    def push_text_line(self, argument: Argument) -> None:
        self._push_text(cast("memoryview", argument), "raw-unicode-escape")

    def _push_text(self, view: memoryview, encoding: Encoding) -> None:
        if len(view) > MAX_TEXT_BYTES:
            self.push(Buffer(view, encoding))
            return
        try:
            text = str(view, encoding)
            text.encode()  # escapes can spell halves of characters, which nobody could print
        except UnicodeError:
            self._refuse("text that is not valid Unicode")
        self._push_short_text(text)

    def _push_short_text(self, text: str) -> None:
        self._spend(len(text) if _is_latin1(text) else 4 * len(text))
        self.push(text)

    # Containers.

    def push_empty_list(self, _: Argument) -> None:
        self.push([])

    def push_empty_dict(self, _: Argument) -> None:
        self.push({})

    def push_empty_tuple(self, _: Argument) -> None:
        self.push(())

    def push_list(self, _: Argument) -> None:
        items = self._pop_items()
        self.push([])
        self._extend(items)

    def push_dict(self, _: Argument) -> None:
        items = self._pop_items()
        self.push({})
        self._update(items)

    def push_tuple(self, _: Argument) -> None:
        self._push_tuple(self._pop_items())

    def push_tuple1(self, _: Argument) -> None:
        self._push_tuple([self._pop()])

    def push_tuple2(self, _: Argument) -> None:
        last = self._pop()
        self._push_tuple([self._pop(), last])

    def push_tuple3(self, _: Argument) -> None:
        last, middle = self._pop(), self._pop()
        self._push_tuple([self._pop(), middle, last])

    def _push_tuple(self, items: list[object]) -> None:
        plain = all(type(item) in _VALUES for item in items)
        self.push(tuple(items) if plain else _Arguments(items))

    def append(self, _: Argument) -> None:
        self._extend([self._pop()])

    def appends(self, _: Argument) -> None:
        self._extend(self._pop_items())

    def set_item(self, _: Argument) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def set_items(self, _: Argument) -> None:
        self._update(self._pop_items())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not list:
            self._refuse(f"items are appended to {_describe(target)}, which is no list")
        target.extend(self._as_value(item) for item in items)

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not dict:
            self._refuse(f"items are set in {_describe(target)}, which is no dict")
        if len(items) % 2:
            self._refuse("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and type(key) is not int:
                self._refuse(f"{_describe(key)} is used as a key; keys are text or integers")
            if key in target:
                self._refuse(f"the key {quote(key)} is set twice")
            target[key] = self._as_value(value)

    # Names, and the few calls and states that numpy writes.

    def push_name(self, argument: Argument) -> None:
        module, name = cast("tuple[memoryview, memoryview]", argument)
        self._push_name(str(module[:99], "latin-1"), str(name[:99], "latin-1"))

    def push_name_from_stack(self, _: Argument) -> None:
        name, module = self._pop(), self._pop()
        if type(module) is not str or type(name) is not str:
            self._refuse("a global whose module or name is not text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        known = _NAMES.get((module, name))
        if known is None:
            self._refuse(
                f"the file names {quote(f'{module}.{name}')}, which plain values and arrays do "
                "not need; it was neither imported nor called"
            )
        self.push(known)

    def call(self, _: Argument) -> None:
        arguments, function = self._pop(), self._pop()
        known = _CALLS.get(function) if isinstance(function, _Name) else None
        if known is None or not isinstance(arguments, tuple):
            self._refuse(f"a call of {_describe(function)}; nothing was executed")
        known(self, arguments)

    def _call_reconstruct(self, arguments: tuple[object, ...]) -> None:
        if len(arguments) == 3:
            base, shape, code = arguments
            empty = type(shape) is tuple and len(shape) == 1 and _is(shape[0], 0)
            if base is _Name.NDARRAY and empty and (_is(code, "b") or _is(code, b"b")):
                self.push(_UnbuiltArray())
                return
        self._refuse("an array is begun in another way than numpy's")

    def _call_dtype(self, arguments: tuple[object, ...]) -> None:
        code, *flags = arguments or (None,)
        if type(code) is not str or code not in _DTYPE_CODES:
            shown = quote(code) if isinstance(code, str) else _describe(code)
            self._refuse(f"the dtype {shown}; only arrays of plain numbers are read")
        align_and_copy = [flag for flag in flags if type(flag) in (bool, int) and flag in (0, 1)]
        if len(flags) != 2 or len(align_and_copy) != 2:
            self._refuse("a dtype is begun in another way than numpy's")
        self.push(_Dtype(code))

    def _call_encode(self, arguments: tuple[object, ...]) -> None:
        if len(arguments) == 2 and _is(arguments[1], "latin1"):
            text = arguments[0]
            if type(text) is str and _is_latin1(text):
                self._spend(len(text))
                self.push(text.encode("latin-1"))
                return
            if type(text) is Buffer and text.encoding is not None:
                self.push(text)
                return
        self._refuse("bytes are written in another way than Python 3's")

    def _call_scalar(self, arguments: tuple[object, ...]) -> None:
        if len(arguments) != 2:
            self._refuse("a numpy scalar is written in another way than numpy's")
        dtype, data = arguments
        self.push(self._array(dtype, (), data, "C").item())

    def _call_from_buffer(self, arguments: tuple[object, ...]) -> None:
        if len(arguments) == 4:
            data, dtype, shape, order = arguments
            self.push(self._array(dtype, shape, data, order))
            return
        if len(arguments) == 5 and _is(arguments[3], "K"):  # numpy 2.3 and later: axes reordered
            data, dtype, shape, _, axes = arguments
            array = self._array(dtype, shape, data, "C")
            if type(axes) is tuple and _is_order(axes, array.ndim):
                self.push(array.transpose(cast("tuple[int, ...]", axes)))
                return
        self._refuse("an array is written in another way than numpy's")

    def build(self, _: Argument) -> None:
        state, target = self._pop(), self._pop()
        if type(target) is _Dtype and isinstance(state, tuple):
            self._build_dtype(target, state)
        elif type(target) is _UnbuiltArray and isinstance(state, tuple):
            self._build_array(state)
        else:
            self._refuse(f"a state is set on {_describe(target)}; nothing was executed")

    def _build_dtype(self, target: _Dtype, state: tuple[object, ...]) -> None:
        order = state[1] if len(state) == 8 else None
        expected = (3, order, None, None, None, -1, -1, 0)
        if not all(map(_is, state, expected)) or order not in ("<", ">", "|"):
            self._refuse("a dtype that is more than a plain number, such as a structure")
        if target.numpy is not None or (order == "|" and target.code[1:] != "1"):
            self._refuse("a dtype whose byte order makes no sense")
        target.numpy = np.dtype(f"{order}{target.code}")
        self.push(target)

    def _build_array(self, state: tuple[object, ...]) -> None:
        if len(state) != 5 or not _is(state[0], 1) or type(state[3]) not in (bool, int):
            self._refuse("an array's state is written in another way than numpy's")
        _, shape, dtype, column_major, data = state
        self.push(self._array(dtype, shape, data, "F" if column_major else "C"))

    def _array(self, dtype: object, shape: object, data: object, order: object) -> Array:
        if type(dtype) is not _Dtype or dtype.numpy is None:
            self._refuse(f"an array with {_describe(dtype)} in place of a dtype")
        if not (_is(order, "C") or _is(order, "F")):
            self._refuse("an array in an unknown memory order")
        size = self._size(dtype.numpy.itemsize, shape)
        values = np.frombuffer(self._data_of(data, size), dtype.numpy)
        if dtype.code == "b1" and values.view(np.uint8).max() > 1:
            self._refuse("an array of booleans with values other than 0 and 1")
        return values.reshape(
            cast("tuple[int, ...]", shape), order=cast("Literal['C', 'F']", order)
        )

    def _size(self, item_size: int, shape: object) -> int:
        """Check a shape, and tell how many bytes an array of it takes."""
        if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
            self._refuse(f"an array whose shape is {_describe(shape)}")
        size = item_size
        for extent in shape:
            if type(extent) is not int or extent < 1:
                self._refuse(f"an array with {_describe(extent)} in its shape; all are at least 1")
            size *= extent
        self._spend(size)
        return size

    def _data_of(self, source: object, size: int) -> memoryview:
        """Find exactly `size` bytes of array data, as a view if they are stored as they are."""
        data: bytes | bytearray | memoryview | None = None
        if type(source) is bytes:
            data = source
        elif type(source) is str and _is_latin1(source):
            data = source.encode("latin-1")
        elif type(source) is Buffer:
            data = source.data(size)
        if data is None or len(data) != size:
            self._refuse(f"an array of {size} bytes with other data than that")
        return memoryview(data).toreadonly()


def _is(value: object, constant: object) -> bool:
    """Equality of scalars that no strange operand can subvert: same type, same value."""
    return type(value) is type(constant) and type(value) in _ATOMS and value == constant


def _is_order(axes: tuple[object, ...], count: int) -> bool:
    """Whether these are the numbers of so many axes, each once."""
    are_numbers = len(axes) == count and all(type(axis) is int for axis in axes)
    return are_numbers and set(axes) == set(range(count))


def _is_latin1(text: str) -> bool:
    return max(text, default="") <= "\xff"


def _may_be_shared(value: object) -> bool:
    if type(value) is tuple or type(value) is list or type(value) is dict:
        items = value.values() if type(value) is dict else value
        # An empty list or dict may be about to contain itself.
        is_short = len(value) <= MAX_SHARED_ITEMS and (type(value) is tuple or len(value) > 0)
        return is_short and all(type(item) in _ATOMS for item in items)
    return type(value) in _ATOMS or isinstance(value, _Name | _Dtype)


def _cost(value: object) -> int:
    """About how many bytes a value that may be shared takes."""
    if type(value) is dict:
        return 64 + sum(map(_cost, (*value.keys(), *value.values())))
    if type(value) is tuple or type(value) is list:
        return 64 + sum(map(_cost, value))
    return 8 + len(value) if type(value) is str or type(value) is bytes else 8


def _describe(found: object) -> str:
    """Name a thing on the stack in an error message."""
    if isinstance(found, _Name):
        return f"the name {found.value}"
    if isinstance(found, _Dtype):
        return "a dtype"
    if isinstance(found, _UnbuiltArray):
        return "an unfinished array"
    if isinstance(found, Buffer):
        return f"a string of {len(found.view)} bytes"
    if isinstance(found, _Arguments):
        return "a tuple of arguments"
    return quote(found)


def _check_nesting(tree: Tree) -> None:
    """Refuse trees that a recursive reader could not follow. They have no shared containers."""
    level: list[Tree] = [tree]
    for _ in range(MAX_NESTING):
        below: list[Tree] = []
        for node in level:
            if isinstance(node, list | tuple):
                below.extend(node)
            elif isinstance(node, dict):
                below.extend(node.values())
        if not below:
            return
        level = below
    raise UnsafePickleError(f"containers are nested more than {MAX_NESTING} deep")


_CALLS: dict[_Name, Callable[[_Machine, tuple[object, ...]], None]] = {
    _Name.RECONSTRUCT: _Machine._call_reconstruct,
    _Name.DTYPE: _Machine._call_dtype,
    _Name.ENCODE: _Machine._call_encode,
    _Name.SCALAR: _Machine._call_scalar,
    _Name.FROM_BUFFER: _Machine._call_from_buffer,
}

_HANDLERS: dict[str, Callable[[_Machine, Argument], None]] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.ignore,
    "MARK": _Machine.mark,
    "PUT": _Machine.put_line,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get_line,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "NONE": _Machine.push_none,
    "NEWTRUE": _Machine.push_true,
    "NEWFALSE": _Machine.push_false,
    "INT": _Machine.push_int_line,
    "BININT": _Machine.push_number,
    "BININT1": _Machine.push_number,
    "BININT2": _Machine.push_number,
    "LONG": _Machine.push_long_line,
    "LONG1": _Machine.push_long,
    "LONG4": _Machine.push_long,
    "FLOAT": _Machine.push_float_line,
    "BINFLOAT": _Machine.push_number,
    "STRING": _Machine.push_quoted_string,
    "BINSTRING": _Machine.push_python2_string,
    "SHORT_BINSTRING": _Machine.push_python2_string,
    "UNICODE": _Machine.push_text_line,
    "BINUNICODE": _Machine.push_text,
    "SHORT_BINUNICODE": _Machine.push_text,
    "BINUNICODE8": _Machine.push_text,
    "BINBYTES": _Machine.push_bytes,
    "SHORT_BINBYTES": _Machine.push_bytes,
    "BINBYTES8": _Machine.push_bytes,
    "BYTEARRAY8": _Machine.push_bytearray,
    "EMPTY_LIST": _Machine.push_empty_list,
    "LIST": _Machine.push_list,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "EMPTY_TUPLE": _Machine.push_empty_tuple,
    "TUPLE": _Machine.push_tuple,
    "TUPLE1": _Machine.push_tuple1,
    "TUPLE2": _Machine.push_tuple2,
    "TUPLE3": _Machine.push_tuple3,
    "EMPTY_DICT": _Machine.push_empty_dict,
    "DICT": _Machine.push_dict,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_name_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
