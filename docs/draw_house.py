"""Draws the house: the rooms of the package from the ground up, and the road through them.

python docs/draw_house.py

tests/test_house.py holds the picture against the code: these are the rooms, and every import leads
to a lower floor.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "allcnn_zoo"
PICTURE = ROOT / "docs" / "pictures" / "house.svg"

ROAD = {  # the rooms that bytes pass on their way to a prediction, and what they are afterwards
    "hub": "a verified file",
    "neon": "an inert tree",
    "from_neon": "weights and header",
    "zoo": "network and preprocessing",
    "classifier": "labels and probabilities",
}

WIDTH, MIDDLE = 920, 460
ROOM, GAP = (112, 30), 12
STEP, MARGIN, HEAD = 52, 28, 44
INK, GREY, PALE, ACCENT = "#1d2b2b", "#61706f", "#eef2f2", "#0b6e6e"


def imported_rooms(path: Path, package: Path) -> set[str]:
    """The rooms that a file of the package imports, inside functions too."""
    here = (PACKAGE.name, *path.relative_to(package).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            targets = [(*filter(None, module), alias.name) for alias in node.names]
        else:
            continue
        found |= {target[1] for target in targets if target[0] == PACKAGE.name and len(target) > 1}
    return found


def floors(package: Path = PACKAGE) -> list[tuple[str, ...]]:
    """Every room, the ground first: each stands on the lowest floor above all that it imports.

    Raises:
        ValueError: Rooms import each other in a circle.
    """
    needs: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):  # they lead in, and stand on no floor
            needs.setdefault(room, set()).update(imported_rooms(path, package) - {room})
    for room in needs:
        needs[room] &= needs.keys()
    built: list[tuple[str, ...]] = []
    while needs:
        floor = tuple(sorted(room for room, below in needs.items() if not below))
        if not floor:
            raise ValueError(f"these rooms import each other in a circle: {sorted(needs)}")
        built.append(floor)
        needs = {room: below - {*floor} for room, below in needs.items() if room not in floor}
    return built


def job(room: str) -> str:
    """What a room is for: the first line of its docstring."""
    file = PACKAGE / f"{room}.py"
    source = file if file.exists() else PACKAGE / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


FLOORS = floors()


def height_of(floor: int) -> int:
    """The middle of a floor, counted from the top of the picture."""
    return HEAD + (len(FLOORS) - floor) * STEP - STEP // 2


def places(rooms: tuple[str, ...], *, road_passes: bool) -> Iterator[tuple[str, int]]:
    """Each room of a floor with its middle; those beside the road leave room for it."""
    step = ROOM[0] + GAP
    beside = [room for room in rooms if room not in ROAD]
    yield from ((room, MIDDLE) for room in rooms if room in ROAD)
    for number, room in enumerate(beside):
        if road_passes:
            place = number - (len(beside) + 1) // 2
            yield room, MIDDLE + step * (place + (place >= 0))
        else:
            yield room, MIDDLE + step * (2 * number - len(beside) + 1) // 2


def draw() -> str:
    """The picture as SVG."""
    top, ground = height_of(len(FLOORS) - 1) - STEP // 2, height_of(0) + STEP // 2
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    size = f"{WIDTH} {ground + 64}"
    title = "The rooms of allcnn_zoo, and the road from published bytes to a prediction"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" text-anchor="middle">',
        f"<title>{title}</title>",
        "<style>text { font: 13px system-ui, sans-serif } .note { font-size: 11px }</style>",
        f'<rect width="{WIDTH}" height="{ground + 64}" rx="8" fill="#fff"/>',
    ]
    for floor in range(len(FLOORS) + 1):
        line = ground - floor * STEP
        parts.append(f'<path d="M{MARGIN} {line}H{WIDTH - MARGIN}" stroke="{PALE}"/>')
    end = floors[list(ROAD)[-1]]
    parts.append(
        f'<path d="M{MIDDLE} {ground + 22}V{height_of(end)}" stroke="{ACCENT}" stroke-width="3"/>'
        f'<text x="{MIDDLE}" y="{ground + 42}" fill="{ACCENT}">published bytes</text>'
    )
    for floor, rooms in enumerate(FLOORS):
        for room, middle in places(rooms, road_passes=floor <= end):
            parts.append(_room(room, middle, height_of(floor)))
    corner = f'x="{MARGIN}" y="{top - 14}" text-anchor="start"'
    parts.append(f'<text {corner} fill="{GREY}" class="note">imports lead only downward</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


def _room(room: str, middle: int, height: int) -> str:
    fill, ink = (ACCENT, "#fff") if room in ROAD else (PALE, INK)
    corner = f'x="{middle - ROOM[0] // 2}" y="{height - ROOM[1] // 2}"'
    box = f'<rect {corner} width="{ROOM[0]}" height="{ROOM[1]}" rx="5" fill="{fill}"/>'
    name = f'<text x="{middle}" y="{height + 4}" fill="{ink}">{room}</text>'
    if room not in ROAD:
        return box + name
    return (
        f"{box}{name}"
        f'<text x="{middle + 8}" y="{height - 22}" fill="{ACCENT}" class="note"'
        f' text-anchor="start">{ROAD[room]}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
