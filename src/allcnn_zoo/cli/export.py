"""``export``: a model as one file for other runtimes."""

import argparse
import dataclasses

from .shared import Commands, Result, add_command, add_destination, add_weights_option


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "export", "write a model, preprocessing included, for other runtimes", _export
    )
    add_destination(parser, ".onnx", ".pt2")
    add_weights_option(parser)
    parser.flag("--whitened", "add the whitened images as a second output")
    parser.option(
        "--whitening",
        "how .onnx stores the whitening matrix: exactly, or rounded in half the space",
        "float32",
        choices=("float32", "float16"),
    )


def _export(arguments: argparse.Namespace) -> Result:
    from .. import zoo
    from ..export import export_model

    exported = export_model(
        zoo.load(arguments.weights),
        arguments.destination,
        whitened=arguments.whitened,
        whitening=arguments.whitening,
    )
    lines = [
        f"wrote {exported.file} ({exported.bytes:,} bytes)",
        f"  weights       {exported.weight_bytes:>12,} bytes",
        f"  whitening     {exported.whitening_bytes:>12,} bytes",
        f"  all the rest  {exported.other_bytes:>12,} bytes",
        f"  checked: probabilities differ by at most {exported.largest_difference:.1e}",
    ]
    return Result(dataclasses.asdict(exported), lines)
