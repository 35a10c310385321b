"""Text is plain English: patterns that cost readers a second look do not come back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "models").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
]
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]
EVERYWHERE = {
    r"cannot be had|could not be had|can be had": "is unavailable; is available",
    r"\bbeside\b": "compared with; next to",
    r"that there are\b": "available",
    r"\bone's own\b": "your own",
    r"(?<!there )\b(?:is|are|was) no (?:dict|file|folder|list|model|number)\b": "is not a",
    r"\bas \w+ (?:has|have) (?:it|them)\b": "as in",
    r"\bwherever there\b|\bthat it is of\b": "where; of",
    r"\b\w*(?:normalis|initialis|optimis|regularis|recognis|generalis|summaris)\w*": "-ize",
    r"\b(?:labell|colour|grey|behaviour|centre|catalogue)\w*": "American spelling",
}
IN_PAGES = {
    **EVERYWHERE,
    r"\bthe house\b|\brooms?\b": "architecture; module",
    r"^#+ (What|How|And)\b(?! to\b)": "a noun phrase as heading",
    r"\bon (a |the )?pictures?\b": "in a picture",
    r"(?<![\d.])\d+(\.\d+)?%(?!\))": "93.90 %, with a space",
    r"\blicence\w*": "American spelling",
}


def found(text: str, patterns: Mapping[str, str]) -> list[str]:
    return [
        f"{match[0]!r}: {better}"
        for pattern, better in patterns.items()
        for match in re.finditer(pattern, text, re.MULTILINE | re.IGNORECASE)
    ]


def prose(page: Path) -> str:
    """A page without code and addresses."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_pattern_that_needs_a_second_look(page: Path) -> None:
    assert not found(prose(page), IN_PAGES)


def test_nor_in_the_sources() -> None:
    assert not {
        name_of(path): words for path in SOURCES if (words := found(path.read_text(), EVERYWHERE))
    }


def test_the_patterns_find_what_they_are_for() -> None:
    bad = "## What is in it\n\nBeside the weights that there are, 93.90% cannot be had."
    assert len(found(bad, IN_PAGES)) == 5
    assert len(found("# one's own file, which is no list, as neon has it", EVERYWHERE)) == 3
