"""The architecture page shows the modules as they are, and imports lead only downward."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))


def test_the_picture_is_up_to_date() -> None:
    assert PAGE["PICTURE"].read_text() == PAGE["draw"](), "run python docs/draw_architecture.py"


def test_contributing_names_only_files_that_exist() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    for name in named:
        assert any((folder / name).exists() for folder in (ROOT, PAGE["PACKAGE"])), name


@pytest.mark.parametrize(
    "source",
    [
        "from .upper import name",
        "from . import upper",
        "import allcnn_zoo.upper",
        "from allcnn_zoo.upper import name",
        "def late():\n    from .upper import name",
    ],
)
def test_no_spelling_of_an_import_may_lead_upward(tmp_path: Path, source: str) -> None:
    (tmp_path / "lower.py").write_text("")
    (tmp_path / "upper.py").write_text("from .lower import value")
    assert PAGE["layers"](tmp_path) == [("lower",), ("upper",)]
    (tmp_path / "lower.py").write_text(source)
    with pytest.raises(ValueError, match=r"lower.*upper"):
        PAGE["layers"](tmp_path)


def test_an_import_upward_from_a_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "upper.py").write_text("from .lower import value")
    (tmp_path / "lower" / "part.py").write_text("from ..upper import name")
    with pytest.raises(ValueError, match="circle"):
        PAGE["layers"](tmp_path)
