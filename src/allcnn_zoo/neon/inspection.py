"""What a pickle holds, safe or not, found without executing anything in it."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ..errors import NeonError, UnsafePickleError, quote
from .files import Source, read_file
from .model import parse_model
from .opcodes import read_opcodes
from .rescue import rescue
from .unpickle import MAX_OPCODES, TEXTS, Array, Tree, read_pickle

# Limits of the report, because a hostile file may consist of names only.
_MAX_NAMES = 100
_MAX_NAME_LENGTH = 200

_MOST_NODES = 500  # of the outline of a pickle that is not a neon model
_MOST_ITEMS = 20  # of one list in it


def inspect_pickle(source: Source) -> dict[str, Any]:
    """Describe any pickle as JSON values; see `allcnn-zoo inspect`.

    Time and memory are bounded, and nothing is executed. A hostile or broken pickle is described,
    too, without an error.

    Args:
        source: The pickle, or its content.

    Returns:
        The ``kind`` of file; its ``bytes``; the declared ``protocol``, None for 0 and 1;
        ``opcode_counts``, the most frequent first, and ``opcodes``, their sum; ``globals``, the
        names that unpickling would import, for example ``"os.system"``; whether these are
        ``complete``: not if opcodes are malformed or more than 400,000, if there are more than 100
        names, or if a name is computed in a way that is not followed (listed as ``"?.?"``); the
        ``verdict`` of `read_pickle`, with its reason as ``refusal``; and totals of arrays if it
        accepts the file. For a neon model, also the description by `rescue`, with the ``neon_name``
        of each layer; for another safe pickle its ``content``, an outline of bounded size.

    Raises:
        NeonError: The file is missing, unreadable or not a regular file.
        UnsafePickleError: It is empty, too large, or of another known format.
    """
    data = read_file(source)
    scan = _Scan(data)
    facts: dict[str, Any] = {
        "kind": "pickle",
        "bytes": len(data),
        "protocol": data[1] if "PROTO" in scan.opcodes else None,
        "verdict": "refused",
        "refusal": None,
        "globals": tuple(scan.names),
        "opcodes": sum(scan.opcodes.values()),
        "opcode_counts": dict(scan.opcodes.most_common()),
        "complete": scan.complete and "STOP" in scan.opcodes,
    }
    try:
        tree = read_pickle(data)
    except UnsafePickleError as error:
        return facts | {"refusal": str(error)}
    sizes = [array.nbytes for array in _arrays_in(tree)]
    facts |= {
        "verdict": "plain values and arrays only",
        "total_arrays": len(sizes),
        "total_array_bytes": sum(sizes),
    }
    try:
        network = rescue(parse_model(tree), states=True)
    except NeonError as error:
        content = _outline("", tree, iter(range(_MOST_NODES - 1)))
        return facts | {"not_a_model": str(error), "content": content}
    named = _with_neon_names(network.description, network.neon_names)
    return facts | named | {"kind": "neon model"}


class _Scan:
    """The opcodes of a pickle, and the names that it would have Python import.

    STACK_GLOBAL takes its module and name from the stack. They are known if they are the last two
    texts pushed, directly or from the memo; otherwise the name is reported as unknown.
    """

    def __init__(self, data: bytes) -> None:
        self.opcodes: Counter[str] = Counter()
        self.names: dict[str, None] = {}  # a set that keeps its order
        self.complete = True
        self._texts: tuple[str | None, str | None] = (None, None)
        self._memo: dict[int, str | None] = {}
        try:
            for _, opcode, argument in islice(read_opcodes(data), MAX_OPCODES):
                self.opcodes[opcode] += 1
                self._follow(opcode, argument)
        except UnsafePickleError:
            self.complete = False  # the error of `read_pickle` tells where and why

    def _follow(self, opcode: str, argument: Any) -> None:
        pushed = None
        match opcode:
            case "GLOBAL" | "INST":
                self._note(*(str(line, "utf-8", "replace") for line in argument))
            case "STACK_GLOBAL":
                self._note(*self._texts)
            case "EXT1" | "EXT2" | "EXT4":
                self._note("extension registry", str(argument))
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                # As in Python, the index of MEMOIZE is the number of entries.
                index = len(self._memo) if opcode == "MEMOIZE" else _index(argument)
                if 0 <= index <= MAX_OPCODES:  # others could be chosen to collide in a dict
                    self._memo[index] = self._texts[1]
                else:
                    self.complete = False
                return
            case "GET" | "BINGET" | "LONG_BINGET":
                pushed = self._memo.get(_index(argument))
            case "PROTO" | "FRAME":
                return
            case _ if opcode in TEXTS:
                with contextlib.suppress(ValueError):
                    pushed = TEXTS[opcode](argument)[:_MAX_NAME_LENGTH]
        self._texts = (self._texts[1], pushed)

    def _note(self, *parts: str | None) -> None:
        if None in parts:
            self.complete = False
        name = ".".join(
            "?" if part is None else ascii(part[:_MAX_NAME_LENGTH])[1:-1] for part in parts
        )
        if len(self.names) < _MAX_NAMES:
            self.names[name] = None
        elif name not in self.names:
            self.complete = False


def _index(argument: int | memoryview) -> int:
    """The index in a memo opcode; -1 if it is not written as plain digits."""
    if isinstance(argument, int):
        return argument
    digits = bytes(argument[:21])
    return int(digits) if digits.isdigit() and len(digits) < 21 else -1


def _with_neon_names(layer: Mapping[str, Any], neon_names: Mapping[str, str]) -> dict[str, Any]:
    return {
        **layer,
        "neon_name": neon_names.get(layer["name"]),
        "layers": [_with_neon_names(inner, neon_names) for inner in layer["layers"]],
    }


def _arrays_in(tree: Tree) -> Iterator[Array]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays_in(item)


def _outline(name: str, value: Tree, nodes: Iterator[int]) -> dict[str, Any]:
    """Outline a value and, depth first, one value inside it for each of `nodes`."""
    node: dict[str, Any] = {"name": name, "is": quote(value)}
    if isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value[:_MOST_ITEMS])
        inside = zip(items, nodes, strict=False)  # which takes an item first, then a node
        node["inside"] = [_outline(quote(key), item, nodes) for (key, item), _ in inside]
        node["left_out"] = len(value) - len(node["inside"])
    elif isinstance(value, np.ndarray):
        node["bytes"] = value.nbytes
    return node
