"""What a pickle holds, safe or not, told without executing or building any of it."""

import codecs
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ..errors import NeonError, UnsafePickleError, quote
from .files import DEFAULT_MAX_BYTES, read_file
from .model import parse_model
from .opcodes import Argument, read_opcodes
from .rescue import RescuedLayer, rescue
from .unpickle import Array, Tree, read_pickle_bytes, unquote

# A hostile file may be nothing but names or opcodes: these bound memory and time.
_MAX_NAMES = 100
_MAX_NAME_LENGTH = 200
_MAX_OPCODES = 5_000_000
_MAX_MEMO = 400_000

_MOST_NODES = 500  # of the outline of a pickle that is no neon model
_MOST_ITEMS = 20  # of one list in it


@dataclass(frozen=True)
class PickleSurvey:
    """What was found in a file that is, or claims to be, a pickle.

    Attributes:
        size: Bytes in the file.
        protocol: The protocol it declares; None where it declares none (protocols 0 and 1).
        opcodes: How often each opcode occurs, the most frequent first.
        globals: The names it would have Python import, such as ``"os.system"``, each once.
        complete: Whether that is all there is: False if the counting stopped at a malformed
            opcode or after five million, if more than a hundred names occur, or if a name is
            computed in a way that is not followed (it is listed as ``"?.?"``).
        refusal: Why `read_pickle` refuses the file; None for a file that it reads.
    """

    size: int
    protocol: int | None
    opcodes: Mapping[str, int]
    globals: tuple[str, ...]
    complete: bool
    refusal: str | None

    @property
    def is_safe(self) -> bool:
        """Whether it holds plain values and arrays only, so that `read_pickle` reads it."""
        return self.refusal is None


def survey(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> PickleSurvey:
    """Report what a pickle contains, in bounded time and memory, executing nothing.

    Args:
        path: Any file.
        max_bytes: Refuse a larger file without reading it.

    Returns:
        The findings; a hostile or broken pickle is reported, not raised.

    Raises:
        NeonError: The file is missing, unreadable or not a regular file.
        UnsafePickleError: It is empty, too large, or recognizably another format.
    """
    return survey_bytes(read_file(path, max_bytes=max_bytes))


def survey_bytes(data: bytes) -> PickleSurvey:
    """Report what a pickle in memory contains; see `survey`."""
    return _examine(data)[0]


def inspect_pickle(data: bytes) -> dict[str, Any]:
    """Everything that can be said about a pickle, as JSON values; see `allcnn-zoo inspect`.

    Args:
        data: The whole pickle.

    Returns:
        The ``kind`` of file, its ``bytes``, ``protocol``, ``globals``, ``opcodes`` (their number),
        the ``verdict`` on it, the ``refusal`` if it is not safe, totals of arrays if it is. For a
        neon model besides: what `rescue` says about the network and its ``layers``, with
        ``neon_name``. For another safe pickle its ``content``, an outline of bounded size.
    """
    found, tree = _examine(data)
    facts: dict[str, Any] = {
        "kind": "pickle",
        "bytes": found.size,
        "protocol": found.protocol,
        "verdict": "plain values and arrays only" if found.is_safe else "refused",
        "refusal": found.refusal,
        "globals": found.globals,
        "opcodes": sum(found.opcodes.values()),
        "opcode_counts": found.opcodes,
        "complete": found.complete,
    }
    if not found.is_safe:
        return facts
    sizes = [array.nbytes for array in _arrays_in(tree)]
    facts |= {"total_arrays": len(sizes), "total_array_bytes": sum(sizes)}
    try:
        network = rescue(parse_model(tree), states=True)
    except NeonError as error:
        return facts | {"not_a_model": str(error), "content": _Outline().of("", tree)}
    return facts | _with_neon_names(network.description, network.root) | {"kind": "neon model"}


def _examine(data: bytes) -> tuple[PickleSurvey, Tree]:
    """The findings, and what is in the file if it is safe."""
    tree, refusal = None, None
    try:
        tree = read_pickle_bytes(data)
    except UnsafePickleError as error:
        refusal = str(error)
    names, opcodes = _Names(), Counter[str]()
    protocol = None
    try:
        for _, opcode, argument in islice(read_opcodes(data), _MAX_OPCODES):
            opcodes[opcode] += 1
            names.follow(opcode, argument)
            if opcode == "PROTO":
                protocol = argument if isinstance(argument, int) else None
    except UnsafePickleError:
        names.complete = False  # the refusal tells of the same, or of something before it
    found = PickleSurvey(
        size=len(data),
        protocol=protocol,
        opcodes=dict(opcodes.most_common()),
        globals=tuple(names.found),
        complete=names.complete and "STOP" in opcodes,
        refusal=refusal,
    )
    return found, tree


class _Names:
    """The names that a pickle would have Python import.

    STACK_GLOBAL takes its module and name from the stack. Followed are the two texts pushed last,
    also through the memo, which is kept as Python keeps it; any other way is reported as unknown.
    """

    def __init__(self) -> None:
        self.found: dict[str, None] = {}  # a set that keeps its order
        self.complete = True
        self._texts: tuple[str | None, str | None] = (None, None)
        self._memo: dict[int, str | None] = {}

    def follow(self, opcode: str, argument: Argument) -> None:
        """Take note of the next opcode."""
        pushed = None
        match opcode:
            case "GLOBAL" | "INST":
                assert isinstance(argument, tuple)
                self._note(*(str(each[:_MAX_NAME_LENGTH], "utf-8", "replace") for each in argument))
            case "STACK_GLOBAL":
                self._note(*self._texts)
            case "EXT1" | "EXT2" | "EXT4":
                self._note("extension registry", str(argument))
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                # MEMOIZE takes the number of entries for its index, as in Python.
                index = len(self._memo) if opcode == "MEMOIZE" else _index(argument)
                if 0 <= index < _MAX_MEMO:
                    self._memo[index] = self._texts[1]
                else:
                    self.complete = False  # the memo is not what it seems from here on
                return
            case "GET" | "BINGET" | "LONG_BINGET":
                pushed = self._memo.get(_index(argument))
            case "FRAME" | "PROTO":
                return
            case _:
                pushed = _text(opcode, argument)
        self._texts = (self._texts[1], pushed)

    def _note(self, module: str | None, name: str | None) -> None:
        if module is None or name is None:
            self.complete = False
        shown = f"{ascii(module)[1:-1] if module else '?'}.{ascii(name)[1:-1] if name else '?'}"
        if len(self.found) < _MAX_NAMES:
            self.found[shown] = None
        elif shown not in self.found:
            self.complete = False


def _text(opcode: str, argument: Argument) -> str | None:
    """The text that an opcode pushes, or its beginning; None if it pushes anything else."""
    if not isinstance(argument, memoryview):
        return None
    view = argument[: 8 * _MAX_NAME_LENGTH]
    try:
        match opcode:
            case "STRING":
                return str(unquote(argument), "latin-1")[:_MAX_NAME_LENGTH]
            case "BINSTRING" | "SHORT_BINSTRING":
                return str(view, "latin-1")[:_MAX_NAME_LENGTH]
            case "UNICODE":
                return codecs.raw_unicode_escape_decode(view, "replace")[0][:_MAX_NAME_LENGTH]
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                return str(view, "utf-8", "replace")[:_MAX_NAME_LENGTH]
    except ValueError:
        pass
    return None


def _index(argument: Argument) -> int:
    if isinstance(argument, memoryview):  # a line
        digits = argument[:20].tobytes()
        return int(digits) if len(digits) == len(argument) and digits.isdigit() else -1
    return argument if isinstance(argument, int) else -1


def _with_neon_names(description: Mapping[str, Any], layer: RescuedLayer) -> dict[str, Any]:
    inside = zip(description["layers"], layer.layers, strict=True)
    return {
        **description,
        "neon_name": layer.neon_name,
        "layers": [_with_neon_names(each, child) for each, child in inside],
    }


def _arrays_in(tree: Tree) -> Iterator[Array]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays_in(item)


class _Outline:
    """The beginning of a tree of values: names, kinds, shapes."""

    def __init__(self) -> None:
        self._nodes_left = _MOST_NODES

    def of(self, name: str, value: Tree) -> dict[str, Any]:
        """A node: what it is, and those inside it as far as there is room for them."""
        self._nodes_left -= 1
        node: dict[str, Any] = {"name": name, "is": quote(value)}
        if isinstance(value, list | tuple | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value[:_MOST_ITEMS])
            node["inside"] = [
                self.of(quote(key), item) for key, item in items if self._nodes_left > 0
            ]
            node["left_out"] = len(value) - len(node["inside"])
        elif isinstance(value, np.ndarray):
            node["bytes"] = value.nbytes
        return node
