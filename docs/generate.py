"""Writes every table, card and figure in README and docs that comes from a results file.

python docs/generate.py            # write
python docs/generate.py --check    # fail if a page is out of date, or a picture older than its data
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import figures
import tables
from cards import card
from draw_architecture import layers, purpose

import allcnn_zoo

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def documents() -> Iterator[tuple[Path, str]]:
    """Each generated file with its content."""
    for weights in allcnn_zoo.list_weights():
        yield DOCS / "models" / f"{weights.name}.md", card(weights)
    speed = tables.speed_tables()
    targets = speed.pop("targets")
    example = {"caption": tables.caption(), "first": tables.first_prediction()}
    faithful = {"faithful": tables.faithful_table()}
    weights = tables.weights_table("docs/models")
    yield filled(ROOT / "README.md", example | {"weights": weights})
    yield filled(DOCS / "index.md", example | {"weights": tables.weights_table("models")})
    paper = {"paper": tables.paper_table(), "order": tables.order_table()}
    yield filled(DOCS / "paper-table.md", paper)
    yield filled(DOCS / "faithful.md", faithful | {"files": tables.networks_table()})
    yield filled(DOCS / "speed.md", speed)
    yield filled(DOCS / "export.md", {"export_sizes": tables.exports_table()})
    yield filled(DOCS / "architecture.md", {"modules": modules_table()})
    yield filled(DOCS / "try-it.md", {"page": tables.page_table()})
    history = {
        "targets": targets,
        "fastest": tables.fastest_table(),
        "training": tables.training_table(),
        "steps": tables.steps_table(),
        "trials": tables.trials_table(),
        "seeds": tables.seeds_table(),
        "costs": tables.costs_table(),
    }
    yield filled(DOCS / "benchmarks.md", history)


def modules_table() -> str:
    """Each module and its purpose, the lowest layer first."""
    modules = [module for layer in layers() for module in layer]
    rows = [[f"`{name}`", purpose(name)] for name in modules]
    return tables.table(["module", "purpose"], rows)


def filled(path: Path, contents: dict[str, str]) -> tuple[Path, str]:
    """The file with each of the contents between the two markers of its name."""
    text = path.read_text()
    for name, content in contents.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        if opening not in text:
            raise SystemExit(f"{path.relative_to(ROOT)} has no place for {name}: {opening}")
        block = f"{opening}\n\n{content}\n\n{closing}"
        before, _, rest = text.partition(opening)
        text = before + block + rest.partition(closing)[2]
    return path, text


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wanted = dict(documents())
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    surplus = {*(DOCS / "models").glob("*.md")} - wanted.keys()
    problems = [f"{path.relative_to(ROOT)}: run python docs/generate.py" for path in stale]
    problems += [f"{path.relative_to(ROOT)}: a card of no weights" for path in surplus]
    problems += [f"docs/pictures/{name}: run make figures" for name in figures.stale()]
    if check:
        print(*problems, sep="\n", end="\n" if problems else "")
        return int(bool(problems))
    for path in stale:
        path.write_text(wanted[path])
    for path in surplus:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
