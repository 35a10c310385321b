"""``convert`` and ``inspect``: legacy files in, safe files out, and what is inside either."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

from .shared import Commands, add_command, add_json_option, print_json, print_table


def register(commands: Commands) -> None:
    """Add this family's commands."""
    parser = add_command(
        commands, "convert", "convert a neon pickle to safetensors, executing nothing", _convert
    )
    parser.add_argument("source", metavar="IN", help="neon's file, usually *.p")
    parser.add_argument("destination", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument(
        "--keep-padding", action="store_true", help="keep neon's six padding outputs"
    )
    parser.add_argument(
        "--dropout-mode",
        choices=("neon", "caffe"),
        help="how dropout worked, for files of neon 1.1 and older, which do not say",
    )
    add_json_option(parser)

    parser = add_command(
        commands, "inspect", "show what a pickle or weights file holds, executing nothing", _inspect
    )
    parser.add_argument("file", metavar="FILE", help="a neon .p file, any pickle, or .safetensors")
    add_json_option(parser)


def _convert(arguments: argparse.Namespace) -> None:
    from ..conversion import convert_neon

    metadata = convert_neon(
        arguments.source,
        arguments.destination,
        arguments.keep_padding,
        dropout_mode=arguments.dropout_mode,
    )
    size = Path(arguments.destination).stat().st_size
    if arguments.json:
        print_json({"file": arguments.destination, "bytes": size, **dict(metadata.provenance)})
        return
    print(f"wrote {arguments.destination} ({size:,} bytes): {metadata.tag}")
    _print_facts(metadata.provenance)


def _inspect(arguments: argparse.Namespace) -> None:
    path = Path(arguments.file)
    is_ours = path.suffix == ".safetensors"
    facts = _weights_file_facts(path) if is_ours else _pickle_facts(path)
    tensors = facts.pop("tensors")
    if arguments.json:
        print_json({"file": arguments.file, **facts, "tensors": tensors})
        return
    print(arguments.file)
    _print_facts(facts)
    if tensors:
        print()
        print_table(
            ("array", "shape", "dtype", "bytes"),
            [
                (row["name"], "x".join(map(str, row["shape"])), row["dtype"], row["bytes"])
                for row in tensors
            ],
        )


def _weights_file_facts(path: Path) -> dict[str, Any]:
    from ..checkpoint import read_metadata, read_shapes

    metadata = read_metadata(path)
    return {
        "kind": "weights of allcnn_zoo",
        "bytes": path.stat().st_size,
        **dataclasses.asdict(metadata),
        "tensors": [
            {"name": name, "shape": shape, "dtype": "float32", "bytes": 4 * math.prod(shape)}
            for name, shape in read_shapes(path).items()
        ],
    }


def _pickle_facts(path: Path) -> dict[str, Any]:
    from .. import neon
    from ..errors import NeonError

    data = neon.read_file(path)
    survey = neon.survey_bytes(data)
    facts: dict[str, Any] = {
        "kind": "pickle",
        "bytes": survey.size,
        "protocol": survey.protocol,
        "verdict": "plain values and arrays only" if survey.is_safe else "refused",
        "refusal": survey.refusal,
        "globals": survey.globals,
        "opcodes": sum(survey.opcodes.values()),
        "tensors": [],
    }
    if not survey.is_safe:
        return facts
    try:
        model = neon.read_model_bytes(data)
    except NeonError as error:
        return {**facts, "model": f"none that neon wrote: {error}"}
    return {
        **facts,
        "kind": "neon model",
        "neon_version": model.version,
        "backend": model.backend,
        "compat_mode": model.compat_mode,
        "epoch": model.epoch,
        "layers": [layer.type for layer in model.layers],
        "tensors": [
            {
                "name": f"{layer.config.get('name', index)}.{name}",
                "shape": array.shape,
                "dtype": str(array.dtype),
                "bytes": array.nbytes,
            }
            for index, layer in enumerate(_flatten(model.layers))
            for name, array in layer.params.items()
        ],
    }


def _flatten(layers: Any) -> Any:
    for layer in layers:
        yield layer
        yield from _flatten(layer.layers)


def _print_facts(facts: Any, indent: str = "  ") -> None:
    """Nested facts as an indented list."""
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            _print_facts(value, indent + "  ")
        elif value not in (None, [], {}, ""):
            shown = "; ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            print(f"{indent}{key}: {shown}")
