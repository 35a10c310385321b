"""Draws the modules in layers, computed from their imports, and the road through them.

python docs/draw_architecture.py

tests/test_architecture_page.py compares the picture with the code.
"""

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "allcnn_zoo"
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"

# The modules that a published file passes on its way to a prediction, and what each makes of it.
START = "published\nfile"
ROAD = {
    "hub": "verified\nfile",
    "neon": "described\nnetwork",
    "from_neon": "weights\nwith header",
    "zoo": "model with\npreprocessing",
    "classifier": "labels and\nprobabilities",
}

WIDTH, BOX, STEP = 960, (104, 30), 46
LEFT, RIGHT = 150, 940  # of the layers
INK, GRAY, PALE, ACCENT = "#1d2b2b", "#56625f", "#e9eeee", "#0b6e6e"
STYLE = "text{font:13px system-ui,sans-serif}.note{font-size:12px}.head{font-weight:600}"


def imported_modules(path: Path, package: Path) -> set[str]:
    """The modules that a file of the package imports, inside functions too."""
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


def layers(package: Path = PACKAGE) -> list[tuple[str, ...]]:
    """Every module, the lowest layer first: each is one above the highest that it imports.

    Raises:
        ValueError: Modules import each other in a circle.
    """
    needs: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        module = path.relative_to(package).parts[0].removesuffix(".py")
        if module not in ("__init__", "__main__"):  # they only lead in
            needs.setdefault(module, set()).update(imported_modules(path, package) - {module})
    for module in needs:
        needs[module] &= needs.keys()
    found: list[tuple[str, ...]] = []
    while needs:
        layer = tuple(sorted(module for module, below in needs.items() if not below))
        if not layer:
            raise ValueError(f"these modules import each other in a circle: {sorted(needs)}")
        found.append(layer)
        needs = {module: below - {*layer} for module, below in needs.items() if below}
    return found


def purpose(module: str) -> str:
    """What a module is for: the first paragraph of its docstring."""
    file = PACKAGE / f"{module}.py"
    source = file if file.exists() else PACKAGE / module / "__init__.py"
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def draw() -> str:
    """The picture as SVG."""
    top = 186
    rows = layers()[::-1]
    height = top + STEP * len(rows) + 12
    title = "From a published file to a prediction, and the layers of modules"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
                ' text-anchor="middle">'
            ),
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
            _left(30, "From a published file to a prediction", "head"),
            *_road(62),
            _left(168, "All modules: each imports only from the rows below it", "head"),
            *(_layer(row, top + STEP * number) for number, row in enumerate(rows)),
            _left(top + 24, "top: the command line"),
            _left(top + STEP * (len(rows) - 1) + 24, "bottom: no imports"),
            "</svg>\n",
        ]
    )


def _road(top: int) -> list[str]:
    """What the file is at each point of the road; below, the module that makes the next of it."""
    states = [START, *ROAD.values()]
    first, step, drop = 70, (WIDTH - 140) // (len(states) - 1), 54
    parts = []
    for number, state in enumerate(states):
        x = first + step * number
        lines = state.split("\n")
        parts += [_text(x, top + 17 * row, line, INK) for row, line in enumerate(lines)]
    for number, module in enumerate(ROAD):
        x = first + step * number + step // 2
        end = x + step // 2 - 12
        parts += [
            (
                f'<path d="M{end - step + 24} {top + 26}V{top + drop}H{end}V{top + 34}"'
                f' stroke="{ACCENT}" stroke-width="2" fill="none"/>'
            ),
            f'<path d="M{end - 5} {top + 35}l5 -9l5 9z" fill="{ACCENT}"/>',
            _box(x, top + drop, module),
        ]
    return parts


def _layer(modules: tuple[str, ...], top: int) -> str:
    middle = top + STEP // 2 - 4
    step = BOX[0] + 10
    first = (LEFT + RIGHT) / 2 - step * (len(modules) - 1) / 2
    return f'<path d="M20 {top + STEP - 4}H{RIGHT}" stroke="{PALE}"/>' + "".join(
        _box(first + step * number, middle, module) for number, module in enumerate(modules)
    )


def _box(x: float, y: int, module: str, width: int = BOX[0]) -> str:
    fill, ink = (ACCENT, "#fff") if module in ROAD else (PALE, INK)
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - BOX[1] // 2}" width="{width}" height="{BOX[1]}"'
        f' rx="5" fill="{fill}"/>{_text(x, y + 4, module, ink)}'
    )


def _text(x: float, y: int, text: str, fill: str) -> str:
    return f'<text x="{x:.0f}" y="{y}" fill="{fill}">{escape(text)}</text>'


def _left(y: int, text: str, kind: str = "note") -> str:
    fill = INK if kind == "head" else GRAY
    return f'<text x="20" y="{y}" class="{kind}" text-anchor="start" fill="{fill}">{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
