"""The command line ``allcnn-zoo``.

Each module here declares a few commands, as functions of their options. It imports the modules that
do the work only when a command runs, so that ``--help`` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import AllCNNZooError, printable
from ..version import __version__
from . import files, models, train
from .shared import Commands, Parser, Result, flag

commands = Commands()
_GROUPS = {"cache": "list, verify or remove cached files", "whiten": "fit whitening statistics"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit status: 0; 1 after an error, which is explained on standard error; 130 after
        Ctrl-C. (Wrong usage exits with 2, as argparse does.)
    """
    _make_streams_safe()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # its last ones are ignored
        try:
            try:
                options = vars(_parser().parse_args(argv))
                run, as_json = options.pop("run"), options.pop("json")
                result = run(**options)
                if result is not None:
                    _show(result, as_json=as_json)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is handled
        except BrokenPipeError:  # such as `| head`
            _discard_output()
        except (AllCNNZooError, OSError) as error:
            _complain("error", error)
            _discard_output()
            return 1
        except KeyboardInterrupt:
            _complain("interrupted")
            return 130
    return 0


def _show(result: Result, *, as_json: bool) -> None:
    """Print a result; the only place that prints one, and escapes what may come from a file."""
    if as_json:
        import json  # not needed for --help

        # Python writes NaN and infinity, which strict JSON does not have: they become null.
        value = json.loads(json.dumps(result.report), parse_constant=lambda _: None)
        print(json.dumps(value, indent=2))
    else:
        for line in result.lines:
            print(printable(line))
    if result.error is not None:
        raise result.error


def _make_streams_safe() -> None:
    """Keep commands running if a stream is closed or cannot encode a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """If standard output is closed, keep Python from reporting that at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object) -> None:
    """Show a warning without the line of code that raised it."""
    _complain("warning", message)


def _complain(kind: str, about: object = None) -> None:
    if isinstance(about, OSError) and about.filename is not None and about.strerror:
        about = f"{about.filename}: {about.strerror}"
    lines = [] if about is None else map(printable, str(about).split("\n"))
    sys.stdout.flush()
    print(": ".join(["allcnn-zoo", kind, *filter(None, ["\n".join(lines)])]), file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        prog="allcnn-zoo",
        description="Pretrained All-CNN networks for CIFAR-10, and a safe converter for neon model"
        " files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"allcnn-zoo {__version__}")
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    declared = [*models.commands, *files.commands, *train.commands, *commands]
    for name, summary, words, run in declared:
        group, _, last = name.rpartition(" ")
        if group not in groups:
            inner = groups[""].add_parser(group, help=_GROUPS[group], **_described(_GROUPS[group]))
            groups[group] = inner.add_subparsers(metavar="ACTION", required=True)
        command = groups[group].add_parser(last, help=summary, **_described(summary))
        command.set_defaults(run=run)
        for word, settings in (flag("--json", "print results as JSON"), *words):
            command.add_argument(word, **settings)
    return parser


def _described(summary: str) -> dict[str, Any]:
    return {"description": f"{summary[0].upper()}{summary[1:]}.", "allow_abbrev": False}


@commands.add("completion", "print a completion script for bash and zsh")
def _completion() -> Result:
    script = _SCRIPT.format(cases="\n".join(_cases(_parser(), "")))
    return Result(script, script.split("\n"))


def _cases(parser: Parser, command: str) -> Iterator[str]:
    """Yield a line of the script for each command inside this one, and then for itself."""
    words: list[str] = []
    for action in parser._actions:  # argparse has no public way to list them
        words += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            for name, inner in action.choices.items():
                yield from _cases(inner, f"{command}{name} ")
    yield f'    "{command}"*) words="{" ".join(words)}" ;;'


_SCRIPT = """\
[ -z "$ZSH_VERSION" ] || {{ autoload -U +X bashcompinit && bashcompinit; }}
_allcnn_zoo() {{
  local words
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}} " in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _allcnn_zoo allcnn-zoo"""
