"""The house is built as its picture says: these rooms, and imports that lead only downward."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "allcnn_zoo"
HOUSE = runpy.run_path(str(ROOT / "docs" / "draw_house.py"))
FLOOR_OF = {room: floor for floor, rooms in enumerate(HOUSE["FLOORS"]) for room in rooms}
DOORS = ("__init__", "__main__")  # they lead in, and stand on no floor


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = {
    path.relative_to(PACKAGE).as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if room_of(path) not in DOORS
}


def imports(source: str, folders: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """Line and name of everything below the package that a file in `folders` imports."""
    here = (PACKAGE.name, *folders)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            targets = [(*filter(None, module), alias.name) for alias in node.names]
        else:
            continue
        for package, *rest in targets:
            if package == PACKAGE.name:
                yield node.lineno, rest[0] if rest else "__init__"


def test_the_picture_shows_the_rooms_that_there_are() -> None:
    assert set(FLOOR_OF) == {room_of(path) for path in FILES.values()}


def test_the_picture_is_up_to_date() -> None:
    assert HOUSE["PICTURE"].read_text() == HOUSE["draw"](), "run python docs/draw_house.py"


@pytest.mark.parametrize("file", FILES)
def test_imports_lead_only_downward(file: str) -> None:
    path = FILES[file]
    folders = path.relative_to(PACKAGE).parts[:-1]
    floor = FLOOR_OF[room_of(path)]
    wrong = [
        f"{file}:{line} imports {target}"
        for line, target in imports(path.read_text(), folders)
        if target != room_of(path) and FLOOR_OF.get(target, len(FLOOR_OF)) >= floor
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "folders", "target"),
    [
        ("from .zoo import load", (), "zoo"),
        ("from . import zoo", (), "zoo"),
        ("from ..zoo import load", ("cli",), "zoo"),
        ("from .. import zoo", ("cli",), "zoo"),
        ("import allcnn_zoo.zoo", (), "zoo"),
        ("from allcnn_zoo.zoo import load", (), "zoo"),
        ("import allcnn_zoo", (), "__init__"),
        ("def late():\n    from .zoo import load", (), "zoo"),
        ("from .buffers import gather", ("neon",), "neon"),
    ],
)
def test_no_spelling_of_an_import_escapes(
    source: str, folders: tuple[str, ...], target: str
) -> None:
    assert [name for _, name in imports(source, folders)] == [target]
