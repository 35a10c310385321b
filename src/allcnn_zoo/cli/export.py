"""``export``: a model as one file for other runtimes."""

import argparse
import dataclasses

from .shared import Commands, Result, add_command, add_weights_option, file_to_write


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "export", "write a model, preprocessing included, for other runtimes", _export
    )
    parser.add_argument(
        "destination",
        metavar="OUT",
        type=file_to_write(".onnx", ".pt2"),
        help="the file to write: .onnx or .pt2",
    )
    add_weights_option(parser)
    parser.add_argument(
        "--whitened", action="store_true", help="add what the network sees as a second output"
    )
    parser.add_argument(
        "--whitening",
        choices=("float32", "float16"),
        default="float32",
        help="how .onnx stores the whitening matrix: exactly, or rounded in half the space"
        " (float32)",
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
