"""Pages are in plain English: patterns that cost readers a second look do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "models").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PATTERNS = {
    r"cannot be had|could not be had|can be had": "is unavailable; is available",
    r"\bbeside\b": "compared with; next to",
    r"that there are\b": "available",
    r"\bthe house\b|\brooms?\b": "architecture; module",
    r"^#+ (What|How|And)\b(?! to\b)": "a noun phrase as heading",
    r"\bon (a |the )?pictures?\b": "in a picture",
    r"(?<![\d.])\d+(\.\d+)?%(?!\))": "93.90 %, with a space",
    r"\b\w*(?:normalis|initialis|optimis|regularis|recognis|generalis|summaris)\w*": "-ize",
    r"\b(?:labell|colour|grey|behaviour|centre|licence|catalogue)\w*": "American spelling",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_pattern_that_needs_a_second_look(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", page.read_text(), flags=re.DOTALL)
    found = [
        f"{match[0]!r}: {better}"
        for pattern, better in PATTERNS.items()
        for match in re.finditer(pattern, text, re.MULTILINE | re.IGNORECASE)
    ]
    assert not found


def test_the_patterns_find_what_they_are_for() -> None:
    bad = "## What is in it\n\nBeside the weights that there are, 93.90% cannot be had."
    assert sum(bool(re.search(p, bad, re.MULTILINE | re.IGNORECASE)) for p in PATTERNS) == 5
