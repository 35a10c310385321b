"""The pages are right: README, CONTRIBUTING and everything in docs/.

The blocks of a page run from top to bottom, each page in one namespace and in one throw-away
folder, which holds the pictures and files that pages speak of. neon's file is a small one, which a
local mirror delivers.

- ``python`` blocks run.
- In ``sh`` blocks, the lines that call ``allcnn-zoo`` run if their command is among `CHEAP`. Every
  other one (training, evaluating, what needs a network) is only read by the real parser, so a flag
  that does not exist fails. For ``make``, ``python`` and ``torchrun`` the target, file or command
  has to exist. What other programs would do is not checked.
- Lines of ``text`` blocks that start with ``allcnn-zoo``, and commands in the prose, are read too.
- A block that cannot run says why, in a comment above it: ``<!-- no-run: the reason -->``.
"""

import hashlib
import importlib
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import allcnn_zoo
from allcnn_zoo.cli import _parser, main

from .conftest import KEY

ROOT = Path(__file__).parents[1]
OURS = (path for path in (ROOT / "docs").rglob("*.md") if "node_modules" not in path.parts)
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(OURS)]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in FILES}
CHEAP = ("cache", "convert", "inspect", "list", "predict")
RUN_ELSEWHERE = {"docs/export.md": "test_export.py"}  # needs runtimes of its own
BLOCK = re.compile(
    r"^(?:<!-- no-run: *(?P<reason>.*?) *-->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def blocks(page: str) -> list[dict[str, str | None]]:
    """Language, code and reason not to run, if any, of each block of a page."""
    return [match.groupdict() for match in BLOCK.finditer(PAGES[page].read_text())]


def prose(page: str) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", PAGES[page].read_text())


def commands(code: str) -> Iterator[list[str]]:
    """The words of each line, without comments and variables that are set before the command."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words = list(itertools.takewhile(lambda word: word not in (">", "|"), words))
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield words


def read(words: list[str]) -> None:
    """Have the real parser read the arguments of ``allcnn-zoo``."""
    try:
        _parser().parse_args(words)
    except SystemExit as error:
        pytest.fail(f"allcnn-zoo does not understand {shlex.join(words)}: status {error.code}")


def check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "allcnn-zoo":
        read(arguments)
        if arguments[0] in CHEAP:
            assert main(arguments) == 0
    elif program == "torchrun":
        read(arguments[arguments.index("allcnn_zoo") + 1 :])
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in arguments)
    elif program == "python":
        assert (ROOT / arguments[0]).exists()


@pytest.fixture
def reader(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where a reader would be: a folder with the files that pages speak of, and names of theirs."""
    neon = (mirror / KEY).read_bytes()
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(mirror))
    place = tmp_path / "place"
    shutil.copytree(ROOT / "examples", place / "examples")
    shutil.copy(ROOT / "examples" / "images" / "cat.png", place)
    (place / "old.p").write_bytes(neon)
    run = place / "runs" / "best"
    run.mkdir(parents=True)
    shutil.copy(allcnn_zoo.download("cifar10_best"), run / "weights.safetensors")
    epoch = {"epoch": 1, "wall_seconds": 60.0, "held_out_accuracy": 0.9}
    (run / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    monkeypatch.chdir(place)
    return {
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "inputs": torch.zeros(2, 3, 32, 32),
        "digest": hashlib.sha256(neon).hexdigest(),
    }


@pytest.mark.filterwarnings("ignore:the weights have 10 outputs")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it exports
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_its_code_runs_from_top_to_bottom(page: str, reader: dict[str, Any]) -> None:
    for block in blocks(page):
        language, code = block["language"], block["code"]
        assert language in ("python", "sh", "text", "js", "html", "json"), f"{language}: {code}"
        if block["reason"] is not None:
            assert len(block["reason"].split()) > 1, f"say why this does not run: {code}"
        elif language == "python" and page not in RUN_ELSEWHERE:
            exec(compile(code, page, "exec"), reader)
        elif language == "sh":
            for words in commands(code):
                check_command(words)
        elif language == "text":
            for line in re.findall(r"^allcnn-zoo (.*)$", code, re.MULTILINE):
                read(re.split(r"\s{2,}", line)[0].split())


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_what_does_not_run_here_runs_there(page: str, test: str) -> None:
    assert Path(page).name in (ROOT / "tests" / test).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_its_prose_exist(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in re.findall(r"`allcnn-zoo\s+([a-z][^`]*)`", prose(page)):
        words = command.split()
        flags = [word.partition("=")[0] for word in words if word.startswith("-")]
        before = words[: words.index(flags[0])] if flags else words
        with pytest.raises(SystemExit) as exit_:
            main([*before, "--help"])
        assert exit_.value.code == 0, command
        offered = capsys.readouterr().out
        assert all(flag in offered for flag in flags), command


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(re.sub(r"`[^`]*`", "", prose(page))):
        path, _, anchor = link.partition("#")
        target = PAGES[page].parent / path if path else PAGES[page]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub and the site give to headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(pytest.fail.Exception, match="does not understand predict"):
        check_command(["allcnn-zoo", "predict", "--no-such-flag", "cat.png"])


def test_a_block_that_does_not_run_has_its_reason() -> None:
    marked = "<!-- no-run: needs a day -->\n```python\ntrain()\n```\n"
    assert [match["reason"] for match in BLOCK.finditer(marked)] == ["needs a day"]
    assert [match["reason"] for match in BLOCK.finditer("```python\n1\n```\n")] == [None]


def test_a_picture_that_is_older_than_its_data_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    figures, tables = map(importlib.import_module, ("figures", "tables"))
    before = {*figures.stale()}
    results = tmp_path / "results"
    shutil.copytree(tables.RESULTS, results)
    monkeypatch.setattr(tables, "RESULTS", results)
    assert {*figures.stale()} == before
    with (results / "inference.json").open("a") as file:
        file.write("\n")
    assert {*figures.stale()} - before == {"speed.svg"}


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        (["9", "1,024", "–"], "---:"),
        (["+2.81", "−0.15"], "---:"),
        (["8.0 %", "12.5 %"], "---:"),
        (["89.5 %", "94.00 %"], "---"),  # their points are in line at the left
        (["2.0", "2.3.0"], "---"),
        (["", "–"], "---"),
    ],
)
def test_columns_of_numbers_are_aligned(
    cells: list[str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    table = importlib.import_module("tables").table(["what", "how much"], [["a", c] for c in cells])
    assert table.splitlines()[1] == f"| --- | {rule} |"
