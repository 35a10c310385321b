"""What the commands have in common: options that several take, and the form of results."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AllCNNZooError, UnknownNameError, check_name, printable
from ..machine import PRECISIONS

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..weights import Metadata

Commands = Any  # argparse does not name the type that add_subparsers returns


class Result(NamedTuple):
    """What a command found.

    Attributes:
        report: A JSON value, for ``--json``.
        lines: Text for people. What of it comes from a file, or is the name of one, is escaped
            when it is printed.
        error: What went wrong with some of it, to end with.
    """

    report: Any
    lines: Iterable[str]
    error: AllCNNZooError | None = None


class Parser(argparse.ArgumentParser):
    """A parser that suggests the closest choice, and shows no word as a terminal would obey it."""

    def option(self, words: str, text: str, default: Any = None, **more: Any) -> None:
        """Add an option such as ``"--maps N"``, where N is positive; help shows the default."""
        name, _, metavar = words.partition(" ")
        if metavar:
            more["metavar"] = metavar
        if metavar == "N":
            more.setdefault("type", positive_int)
        shown = text if default is None else f"{text} ({default})"
        self.add_argument(name, default=default, help=shown, **more)

    def flag(self, name: str, text: str) -> None:
        """Add an option without a value."""
        self.add_argument(name, action="store_true", help=text)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None:
            return
        try:
            check_name(value, map(str, action.choices), str(action.metavar or "choice").lower())
        except UnknownNameError as error:
            raise argparse.ArgumentError(action, str(error)) from None

    def error(self, message: str) -> Any:
        """Exit with 2."""
        super().error(printable(message))


def add_command(commands: Commands, name: str, summary: str, run: Any) -> Parser:
    """Add a command with one line of description, which its own --help repeats."""
    parser: Parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.flag("--json", "print results as JSON")
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Commands, name: str, summary: str) -> Commands:
    """Add a command that is followed by an action."""
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
    return parser.add_subparsers(metavar="ACTION", required=True)


def add_destination(parser: Parser, *suffixes: str) -> None:
    """Add the argument ``OUT``, a file to write."""
    text = f"file to write: {' or '.join(suffixes or ['.safetensors'])}"
    parser.add_argument("destination", metavar="OUT", type=file_to_write(*suffixes), help=text)


def add_data_options(parser: Parser) -> None:
    """Add the options for CIFAR-10's images."""
    parser.option("--data DIR", "folder that holds cifar-10-batches-py")
    parser.option("--split", "images to use", "test", choices=("test", "train"))


def add_weights_option(parser: Parser) -> None:
    """Add ``--weights``."""
    text = "tag of published weights, .safetensors file, neon .p file, or hf://OWNER/NAME"
    parser.option("--weights TAG|FILE", text, "allcnn_c")


def add_network_options(parser: Parser) -> None:
    """Add the options for weights, device and batch size."""
    add_weights_option(parser)
    parser.option("--device DEVICE", "where to run, such as cpu, cuda or mps (cpu)")
    parser.option("--batch-size N", "images of a micro-batch", 32)


def add_model_options(parser: Parser) -> None:
    """Add the options for weights, device, batch size, precision, engine and threads."""
    add_network_options(parser)
    precision = "auto: bfloat16 where the processor has it"
    parser.option("--precision", precision, "float32", choices=PRECISIONS)
    engine = "what runs the network; auto: the fastest installed"
    engines = ("auto", "torch", "openvino", "onnxruntime")
    parser.option("--engine", engine, "auto", choices=engines)
    parser.option("--threads N", "CPU threads, at most those of this process (PyTorch's number)")


def open_classifier(arguments: argparse.Namespace) -> "Classifier":
    """Open the classifier that the options of `add_model_options` ask for."""
    from ..classifier import Classifier

    return Classifier.from_pretrained(
        arguments.weights,
        device=arguments.device,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        engine=arguments.engine,
        threads=arguments.threads,
    )


def describe_weights(weights: "Metadata") -> dict[str, Any]:
    """Name the weights that a report is about, as JSON values.

    The training recipe, which is most of the provenance, is left to ``inspect``.
    """
    provenance = {key: value for key, value in weights.provenance.items() if key != "recipe"}
    return {"tag": weights.tag, "provenance": provenance}


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first of the processes that ``torchrun`` started explain an error."""
    try:
        yield
    except (AllCNNZooError, OSError) as error:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(1) from error
        raise


def positive_int(text: str) -> int:
    """Read a positive integer from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def file_to_write(*suffixes: str) -> Callable[[str], str]:
    """Read a destination from the command line; refuse what cannot be meant before any work.

    Args:
        suffixes: Those that something of ours can load; any if there are none.
    """

    def check(text: str) -> str:
        path = Path(text)
        if text == "-":
            raise AllCNNZooError("- (standard output) is not supported here; give a file name")
        if suffixes and path.suffix not in suffixes:
            raise AllCNNZooError(f"{text}: give a name that ends in {' or '.join(suffixes)}")
        if path.exists() and not path.is_file():
            raise AllCNNZooError(f"{text} exists and is not a regular file; give another name")
        return text

    return check


def folder_to_write(text: str) -> str:
    """Read a folder for results from the command line, as `file_to_write` does."""
    if text == "-" or (Path(text).exists() and not Path(text).is_dir()):
        raise AllCNNZooError(f"{text} is not a folder; give another name")
    return text


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines with columns that line up: numbers to the right, everything else to the left."""
    rows = list(rows)
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [bool(rows) and isinstance(value, (int, float)) for value in (rows or [header])[0]]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
