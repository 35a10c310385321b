"""Shared by all commands: how they are declared, their options, the form of results."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import AllCNNZooError, UnknownNameError, check_name, printable
from ..storage import expanded


class Result(NamedTuple):
    """The result of a command.

    Attributes:
        report: A JSON value, for ``--json``.
        lines: Text for people; control characters are escaped when it is printed.
        error: An error to report after the result, if a part of the work failed.
    """

    report: Any
    lines: Iterable[str]
    error: AllCNNZooError | None = None


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a data class by name, as JSON values."""
    import dataclasses  # not needed for --help, and a tenth of its time

    return dataclasses.asdict(record)


Option: TypeAlias = tuple[str, dict[str, Any]]  # what `ArgumentParser.add_argument` takes
Run: TypeAlias = Callable[..., Result | None]


class Commands(list[tuple[str, str, tuple[Option, ...], Run]]):
    """The commands of a module: name, summary, options, and the function that takes these."""

    def add(self, name: str, summary: str, *options: Option) -> Callable[[Run], Run]:
        """Declare a command, for example ``"cache ls"``, that the decorated function runs."""

        def declare(run: Run) -> Run:
            self.append((name, summary, options, run))
            return run

        return declare


def option(words: str, text: str, default: Any = None, **more: Any) -> Option:
    """Declare an option, for example ``"--maps N"`` (N is positive), or a positional argument.

    Help shows the default.
    """
    name, _, metavar = words.partition(" ")
    if metavar:
        more["metavar"] = metavar
    if metavar == "N":
        more.setdefault("type", positive_int)
    shown = text if default is None else f"{text} ({default})"
    return name, {"default": default, "help": shown, **more}


def flag(name: str, text: str) -> Option:
    """Declare an option without a value."""
    return name, {"action": "store_true", "help": text}


def positive_int(text: str) -> int:
    """Read a positive integer from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def file_to_write(*suffixes: str) -> Callable[[str], str]:
    """A check of destinations before any work, which refuses those that cannot be written."""

    def check(text: str) -> str:
        path = Path(text)
        if text == "-":
            raise AllCNNZooError("- (standard output) is not supported here; give a file name")
        if suffixes and path.suffix not in suffixes:
            raise AllCNNZooError(f"{text}: give a name that ends in {' or '.join(suffixes)}")
        if path.exists() and not path.is_file():
            raise AllCNNZooError(f"{text} exists and is not a regular file; give another name")
        if not path.parent.is_dir():
            raise AllCNNZooError(f"{text}: there is no folder {path.parent}; make it first")
        return text

    return check


def folder_to_write(text: str) -> str:
    """Read a folder for results from the command line, as `file_to_write` does."""
    if text == "-" or (Path(text).exists() and not Path(text).is_dir()):
        raise AllCNNZooError(f"{text} is not a folder; give another name")
    return text


def destination(*suffixes: str) -> Option:
    """The argument ``OUT``, a file to write."""
    text = f"file to write: {' or '.join(suffixes or ['.safetensors'])}"
    return option("destination", text, metavar="OUT", type=file_to_write(*suffixes))


WEIGHTS = option(
    "--weights TAG|FILE",
    "tag or network name, .safetensors file, neon .p file, address, or hf://OWNER/NAME",
    "allcnn_c",
)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Under ``torchrun``, let only the first process print an error."""
    try:
        yield
    except (AllCNNZooError, OSError) as error:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(1) from error
        raise


class Parser(argparse.ArgumentParser):
    """A parser that refuses empty words, replaces `~`, and suggests the closest choice."""

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        if not text:  # to a path, it would be the current folder
            raise argparse.ArgumentError(action, "the word is empty (a variable without a value?)")
        # Shells expand `~` in `--out ~/maps`, but neither in `--out=~/maps` nor in quotes.
        return super()._get_value(action, str(expanded(text)) if text[:1] == "~" else text)

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


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Align rows in columns: numbers to the right, everything else to the left."""
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
