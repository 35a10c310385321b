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

from ..errors import AllCNNZooError
from ..version import __version__
from . import bench, cache, data, explain, export, files, models, train

_FAMILIES = (models, explain, files, export, data, cache, train, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit status: 0, or 1 after an error, which is explained on standard error. (Wrong usage
        exits with 2, as argparse does.)
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # we ignore where it was
    try:
        arguments.run(arguments)
        if sys.stdout is not None:  # it was closed from the start
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AllCNNZooError, OSError) as error:
        print(f"allcnn-zoo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("allcnn-zoo: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning is for the user here, who does not care which line of code it comes from."""
    print(f"allcnn-zoo: warning: {message}", file=sys.stderr)


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
