"""``convert`` and ``inspect``: legacy files in, safe files out, and what is inside either."""

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .shared import (
    Commands,
    add_command,
    add_json_option,
    print_json,
    print_table,
    printable,
)


def register(commands: Commands) -> None:
    """Add this family's commands."""
    parser = add_command(
        commands, "convert", "convert a neon pickle to safetensors, executing nothing", _convert
    )
    parser.add_argument("source", metavar="IN", help="neon's file, usually *.p, of any network")
    parser.add_argument("destination", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument(
        "--keep-padding", action="store_true", help="keep the six padding outputs of All-CNN-C"
    )
    parser.add_argument(
        "--dropout-mode",
        choices=("neon", "caffe"),
        help="how dropout worked, for an All-CNN-C of neon 1.1 and older, which do not say",
    )
    parser.add_argument(
        "--states",
        action="store_true",
        help="rescue the optimizer's states too, which makes a generic rescue even of All-CNN-C",
    )
    add_json_option(parser)

    parser = add_command(
        commands, "inspect", "show what a pickle or weights file holds, executing nothing", _inspect
    )
    parser.add_argument("file", metavar="FILE", help="a neon .p file, any pickle, or .safetensors")
    add_json_option(parser)


def _convert(arguments: argparse.Namespace) -> None:
    from ..errors import NotAllCNNError
    from ..from_neon import convert_neon

    if arguments.states:
        _rescue(arguments, "optimizer states were asked for")
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
    print(f"wrote {arguments.destination} ({report['bytes']:,} bytes): {metadata.tag}")
    _print_facts(metadata.provenance)


def _rescue(arguments: argparse.Namespace, reason: str) -> None:
    from ..from_neon import rescue_neon

    description = rescue_neon(arguments.source, arguments.destination, states=arguments.states)
    report = {"kind": "rescued neon network", **_written(arguments), "reason": reason}
    if arguments.json:
        print_json({**report, **description})
        return
    print(f"wrote {arguments.destination} ({report['bytes']:,} bytes)")
    print("a generic rescue: neon's own network with all its parameters, not a network of ours")
    _print_facts({"reason": reason})
    _print_facts(_facts_of(description))
    print("`allcnn-zoo inspect` shows its layers; allcnn_zoo.neon.to_module rebuilds it to run")


def _written(arguments: argparse.Namespace) -> dict[str, Any]:
    size = Path(arguments.destination).stat().st_size
    return {"file": arguments.destination, "bytes": size}


def _inspect(arguments: argparse.Namespace) -> None:
    from ..inspection import inspect_file

    facts = inspect_file(arguments.file)
    if arguments.json:
        print_json({"file": arguments.file, **facts})
        return
    print(arguments.file)
    _print_facts(_facts_of(facts))
    if "tensors" in facts:
        print()
        print_table(
            ("array", "shape", "dtype", "bytes"),
            [
                (row["name"], _times(row["shape"]), row["dtype"], row["bytes"])
                for row in facts["tensors"]
            ],
        )
    if "layers" in facts:
        print()
        print("\n".join(_layer_lines(facts, "")))
    if "content" in facts:
        print()
        print("\n".join(_outline_lines(facts["content"], "")))


_SHOWN_AS_TREES = frozenset(
    ("layers", "settings", "arrays", "content", "tensors", "name", "type", "neon_name")
)


def _facts_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """All but the parts that are shown as trees and tables."""
    hidden = _SHOWN_AS_TREES | {"opcode_counts"}
    return {key: value for key, value in facts.items() if key not in hidden}


# Trees. What comes from a file is shown in printable characters only.


def _layer_lines(layer: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A layer, its settings and arrays, and those inside it, each a line."""
    name, kind = str(layer["name"]).rpartition(".")[2], str(layer["type"])
    settings = ", ".join(
        f"{key} {_short(value)}" for key, value in (layer["settings"] or {}).items()
    )
    titled = name if name.endswith(kind.rpartition(".")[2]) else f"{name}: {kind}"
    notes = [titled, f"({settings})" if settings else "", layer.get("neon_name") or ""]
    if layer.get("not_understood"):
        notes.append(f"NOT UNDERSTOOD: {layer['not_understood']}")
    yield indent + printable("  ".join(filter(None, notes)))
    for array_name, array in layer["arrays"].items():
        size = math.prod(array["shape"])
        shown = f"{array_name}  {_times(array['shape'])}  {array['dtype']}  {size:,} values"
        yield indent + "    " + printable(shown)
    for child in layer["layers"]:
        yield from _layer_lines(child, indent + "  ")


def _outline_lines(node: Mapping[str, Any], indent: str) -> Iterator[str]:
    name = f"{node['name']}: " if node["name"] else ""
    yield indent + printable(f"{name}{node['is']}")
    for child in node.get("inside", ()):
        yield from _outline_lines(child, indent + "  ")
    if node.get("left_out"):
        yield f"{indent}  ... and {node['left_out']:,} more"


def _short(setting: Any) -> str:
    if isinstance(setting, dict):  # an activation function
        return " ".join(map(str, setting.values()))
    return _times(setting) if isinstance(setting, list) else str(setting)


def _times(shape: Any) -> str:
    return "x".join(map(str, shape)) or "one value"


def _print_facts(facts: Mapping[str, Any], indent: str = "  ") -> None:
    """Nested facts as an indented list."""
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(printable(f"{indent}{key}:"))
            _print_facts(value, indent + "  ")
        elif value not in (None, [], (), {}, ""):
            shown = "; ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            print(printable(f"{indent}{key}: {shown}"))
