"""What a file holds, found without executing any of it: any pickle, any safetensors file."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from . import neon, rescued
from .errors import CheckpointError, NeonError, printable, quote
from .neon.files import HEAD_BYTES, SAFETENSORS, other_format

_SAFETENSORS_SUFFIX = ".safetensors"
_LONG_NAMES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}  # of types
_MOST_NODES = 500  # of a pickle that is no neon model
_MOST_ITEMS = 20  # of one list


def inspect_file(path: str | Path) -> dict[str, Any]:
    """Describe a file as JSON values.

    Args:
        path: Any pickle, or any safetensors file.

    Returns:
        The ``kind`` of file, its ``bytes``, and what belongs to the kind. For a pickle: its
        ``protocol``, the ``globals`` that it names, its ``opcodes`` (their number), the
        ``verdict`` on it, the ``refusal`` if it is not safe, totals of arrays if it is. For a
        neon model besides: what the file says about the network and its ``layers``, as
        `neon.rescue` describes them, with ``neon_name``. For another safe pickle its
        ``content``, an outline of bounded size. For safetensors files the ``tensors``, and what
        the header says: about weights of ours, a rescued network, or another program's file.

    Raises:
        NeonError: The file is missing, not a regular file, or recognizably of another format.
        CheckpointError: A safetensors file is missing or damaged.
    """
    path = Path(path)
    found = other_format(_head(path))
    if found == SAFETENSORS or (found is None and path.suffix == _SAFETENSORS_SUFFIX):
        return _inspect_safetensors(path)
    return _inspect_pickle(neon.read_file(path))


def _head(path: Path) -> bytes:
    """How a file begins; nothing where it cannot be read, which has its own error later."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():  # opening a fifo would wait for a writer
            with path.open("rb") as file:
                return file.read(HEAD_BYTES)
    return b""


def _inspect_safetensors(path: Path) -> dict[str, Any]:
    description = rescued.read_description(path)
    if description is not None:
        facts = {"kind": "rescued neon network", "bytes": path.stat().st_size}
        # Only the part of a description that is needed was checked: none may pass for ours.
        ours = {*facts, "tensors", "content"}
        return facts | {key: value for key, value in description.items() if key not in ours}
    header, tensors = _read_safetensors(path)
    facts = {"kind": "safetensors of another program", "bytes": path.stat().st_size}
    if "allcnn_zoo" in header:
        from . import checkpoint  # it needs PyTorch, which a look at other files does not

        facts["kind"] = "weights of allcnn_zoo"
        facts |= dataclasses.asdict(checkpoint.read_metadata(path))
    elif header:
        facts["metadata"] = header
    return {**facts, "tensors": tensors}


def _read_safetensors(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The header's own entries, and name, shape and type of each tensor."""
    tensors = []
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                kind, bits, rest = re.findall(r"(\D+)(\d*)(.*)", part.get_dtype())[0]
                dtype = _LONG_NAMES.get(kind, kind) + bits + rest
                shape = tuple(part.get_shape())
                count = math.prod(shape) * int(bits or 8) // 8
                tensors.append({"name": name, "shape": shape, "dtype": dtype, "bytes": count})
            return file.metadata() or {}, tensors
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {printable(path)}: {error}") from None


def _inspect_pickle(data: bytes) -> dict[str, Any]:
    survey = neon.survey_bytes(data)
    facts: dict[str, Any] = {
        "kind": "pickle",
        "bytes": survey.size,
        "protocol": survey.protocol,
        "verdict": "plain values and arrays only" if survey.is_safe else "refused",
        "refusal": survey.refusal,
        "globals": survey.globals,
        "opcodes": sum(survey.opcodes.values()),
        "opcode_counts": survey.opcodes,
        "complete": survey.complete,
    }
    if not survey.is_safe:
        return facts
    tree = neon.read_pickle_bytes(data)
    sizes = [array.nbytes for array in _arrays_in(tree)]
    facts |= {"total_arrays": len(sizes), "total_array_bytes": sum(sizes)}
    try:
        network = neon.rescue(neon.parse_model(tree), states=True)
    except NeonError as error:
        return facts | {"not_a_model": str(error), "content": _Outline().of("", tree)}
    layers = _with_neon_names(network.description, network.root)
    return facts | layers | {"kind": "neon model"}


def _with_neon_names(description: Mapping[str, Any], layer: neon.RescuedLayer) -> dict[str, Any]:
    inside = zip(description["layers"], layer.layers, strict=True)
    return {
        **description,
        "neon_name": layer.neon_name,
        "layers": [_with_neon_names(each, child) for each, child in inside],
    }


def _arrays_in(tree: neon.Tree) -> Iterator[neon.Array]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays_in(item)


class _Outline:
    """The beginning of a tree of values: names, kinds, shapes."""

    def __init__(self) -> None:
        self._nodes_left = _MOST_NODES

    def of(self, name: str, value: neon.Tree) -> dict[str, Any]:
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
