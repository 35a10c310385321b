"""The command line: words in, words out; what it does lives in the rooms it calls.

Each module here is a family of commands. It says what words it takes in `register`, and imports
the rooms that do the work only when a command runs, so that ``--help`` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import AllCNNZooError
from ..version import __version__
from . import bench, cache, data, explain, export, files, models, train
from .shared import printable

_FAMILIES = (models, explain, files, export, data, cache, train, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit status: 0, or 1 after an error, which is explained on standard error. (Wrong usage
        exits with 2, as argparse does.)
    """
    _make_streams_safe()
    arguments = _parser().parse_args(argv)
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # we ignore where it was
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AllCNNZooError, OSError) as error:
        _complain(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        print("allcnn-zoo: interrupted", file=sys.stderr)
        return 130
    return 0


def _make_streams_safe() -> None:
    """A name that the terminal cannot show, or a stream that was closed, is no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning is for the user here, who does not care which line of code it comes from."""
    _complain(f"warning: {message}")


def _complain(text: str) -> None:
    """Tell the user, and no more than tell: part of the text may come from a file."""
    print("allcnn-zoo: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allcnn-zoo",
        description="All-CNN-C and its family for CIFAR-10: pretrained weights, rescued safely.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"allcnn-zoo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for family in _FAMILIES:
        family.register(commands)
    return parser
