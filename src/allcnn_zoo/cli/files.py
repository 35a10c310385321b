"""``convert`` and ``inspect``: neon's files become safe ones, and what a file holds is shown."""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .shared import (
    Commands,
    add_command,
    add_json_option,
    file_to_write,
    print_json,
    print_table,
    say,
)


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "convert", "convert a neon pickle to safetensors, executing nothing", _convert
    )
    parser.add_argument("source", metavar="IN", help="neon's file, usually *.p, of any network")
    parser.add_argument(
        "destination",
        metavar="OUT",
        type=file_to_write(".safetensors"),
        help="the .safetensors file to write",
    )
    parser.add_argument(
        "--keep-padding", action="store_true", help="keep the six padding outputs of All-CNN-C"
    )
    parser.add_argument(
        "--dropout-mode",
        choices=("neon", "caffe"),
        help="how dropout scales, for an All-CNN-C of neon 1.1 or older (not stored there)",
    )
    parser.add_argument(
        "--states",
        action="store_true",
        help="keep the optimizer's states; this makes a generic rescue, even of All-CNN-C",
    )
    add_json_option(parser)

    parser = add_command(
        commands, "inspect", "show what a pickle or weights file holds, executing nothing", _inspect
    )
    parser.add_argument(
        "file", metavar="FILE|TAG", help="any pickle or .safetensors file, or published weights"
    )
    add_json_option(parser)


def _convert(arguments: argparse.Namespace) -> None:
    from ..errors import NotAllCNNError
    from ..from_neon import convert_neon

    if arguments.states:
        _rescue(arguments, "--states was given")
        return
    try:
        metadata = convert_neon(
            arguments.source,
            arguments.destination,
            arguments.keep_padding,
            dropout_mode=arguments.dropout_mode,
        )
    except NotAllCNNError as error:
        _rescue(arguments, str(error))
        return
    report = {"kind": "weights of allcnn_zoo", **_written(arguments), **metadata.provenance}
    if arguments.json:
        print_json(report)
        return
    say(f"wrote {arguments.destination} ({report['bytes']:,} bytes): {metadata.tag}")
    _print_facts(metadata.provenance)


def _rescue(arguments: argparse.Namespace, reason: str) -> None:
    from ..from_neon import rescue_neon

    description = rescue_neon(arguments.source, arguments.destination, states=arguments.states)
    report = {"kind": "rescued neon network", **_written(arguments), "reason": reason}
    if arguments.json:
        print_json({**report, **description})
        return
    say(f"wrote {arguments.destination} ({report['bytes']:,} bytes)")
    say("a generic rescue: neon's own network with all its parameters, not a network of ours")
    _print_facts({"reason": reason, **description})
    say("`allcnn-zoo inspect` shows its layers; allcnn_zoo.neon.to_module rebuilds it to run")


def _written(arguments: argparse.Namespace) -> dict[str, Any]:
    size = Path(arguments.destination).stat().st_size
    return {"file": arguments.destination, "bytes": size}


def _inspect(arguments: argparse.Namespace) -> None:
    from ..errors import UnsafePickleError
    from ..weights import list_weights

    path = arguments.file
    if path in {name for weights in list_weights() for name in (weights.tag, weights.name)}:
        from .. import zoo

        path = zoo.download(path)
    facts = facts_of(path)
    if arguments.json:
        print_json({"file": str(path), **facts})
    else:
        say(path)
        _print_facts(facts)
        if "tensors" in facts:
            say()
            rows = [
                (row["name"], _times(row["shape"]), row["dtype"], row["bytes"])
                for row in facts["tensors"]
            ]
            print_table(("array", "shape", "dtype", "bytes"), rows)
        if "layers" in facts:
            say()
            _print_layer(facts)
        if "content" in facts:
            say()
            _print_outline(facts["content"])
    if facts.get("refusal"):
        raise UnsafePickleError(f"{path}: {facts['refusal']}")


def facts_of(path: str | Path) -> dict[str, Any]:
    """Describe a file as JSON values, executing nothing.

    Args:
        path: Any pickle, or any safetensors file.

    Returns:
        The ``kind`` of file, its ``bytes``, and what belongs to the kind. For a pickle, what
        `neon.inspect_pickle` reports. For safetensors files the ``tensors``, and what the header
        says: about weights of ours, a rescued network, or another program's file.

    Raises:
        NeonError: The file is missing, not a regular file, or recognizably of another format.
        CheckpointError: A safetensors file is missing or damaged.
    """
    from .. import neon
    from ..neon.files import SAFETENSORS, format_of

    path = Path(path)
    found = format_of(path)
    if found == SAFETENSORS or (found is None and path.suffix == ".safetensors"):
        return _facts_of_safetensors(path)
    return neon.inspect_pickle(neon.read_file(path))


_LONG_NAMES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}  # of types


def _facts_of_safetensors(path: Path) -> dict[str, Any]:
    from .. import checkpoint, neon
    from ..storage import opened

    description = neon.read_description(path)
    if description is not None:
        facts = {"kind": "rescued neon network", "bytes": path.stat().st_size}
        # The rest of a description may say anything, and must not pass for what others report.
        ours = {*facts, "tensors", "content", "refusal"}
        return facts | {key: value for key, value in description.items() if key not in ours}
    tensors = []
    with opened(path, "its header") as file:
        header = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            kind, bits, rest = re.findall(r"(\D+)(\d*)(.*)", part.get_dtype())[0]
            row = {"name": name, "shape": tuple(part.get_shape())}
            row["dtype"] = _LONG_NAMES.get(kind, kind) + bits + rest
            row["bytes"] = math.prod(row["shape"]) * int(bits or 8) // 8
            tensors.append(row)
    facts = {"kind": "safetensors of another program", "bytes": path.stat().st_size}
    if "allcnn_zoo" in header:
        facts["kind"] = "weights of allcnn_zoo"
        facts |= dataclasses.asdict(checkpoint.read_metadata(path))
    elif header:
        facts["metadata"] = header
    return {**facts, "tensors": tensors}


_SHOWN_AS_TREES = frozenset(
    (
        *("layers", "settings", "arrays", "content", "tensors", "name", "type", "neon_name"),
        "opcode_counts",
    )
)


def _print_facts(facts: Mapping[str, Any], indent: str = "  ") -> None:
    """Print nested facts as an indented list, without what is shown as a tree or a table."""
    for key, value in facts.items():
        if indent == "  " and key in _SHOWN_AS_TREES:
            continue
        if isinstance(value, Mapping) and value:
            say(f"{indent}{key}:")
            _print_facts(value, indent + "  ")
        elif value not in (None, [], (), {}, ""):
            shown = "; ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            say(f"{indent}{key}: {shown}")


def _print_layer(layer: Mapping[str, Any], indent: str = "") -> None:
    """Print a layer, its settings and arrays, and the layers inside it."""
    name, kind = layer["name"].rpartition(".")[2], layer["type"]
    settings = ", ".join(
        f"{key} {_short(value)}" for key, value in (layer["settings"] or {}).items()
    )
    titled = name if name.endswith(kind.rpartition(".")[2]) else f"{name}: {kind}"
    notes = [titled, f"({settings})" if settings else "", layer.get("neon_name")]
    if layer.get("not_understood"):
        notes.append(f"NOT UNDERSTOOD: {layer['not_understood']}")
    say(indent + "  ".join(filter(None, notes)))
    for array_name, array in layer["arrays"].items():
        shape, size = array["shape"], math.prod(array["shape"])
        say(f"{indent}    {array_name}  {_times(shape)}  {array['dtype']}  {size:,} values")
    for child in layer["layers"]:
        _print_layer(child, indent + "  ")


def _print_outline(node: Mapping[str, Any], indent: str = "") -> None:
    """Print the outline of a pickle that is no neon model."""
    name = f"{node['name']}: " if node["name"] else ""
    say(f"{indent}{name}{node['is']}")
    for child in node.get("inside", ()):
        _print_outline(child, indent + "  ")
    if node.get("left_out"):
        say(f"{indent}  ... and {node['left_out']:,} more")


def _short(setting: Any) -> str:
    if isinstance(setting, dict):  # an activation function
        return " ".join(map(str, setting.values()))
    return _times(setting) if isinstance(setting, list) else str(setting)


def _times(shape: Any) -> str:
    return "x".join(map(str, shape)) or "one value"
