"""The architecture picture shows the modules as they are, and imports lead only downward."""

import runpy
from pathlib import Path

import pytest

HOUSE = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "draw_house.py"))


def test_the_picture_is_up_to_date() -> None:
    assert HOUSE["PICTURE"].read_text() == HOUSE["draw"](), "run python docs/draw_house.py"


@pytest.mark.parametrize(
    "source",
    [
        "from .roof import tiles",
        "from . import roof",
        "import allcnn_zoo.roof",
        "from allcnn_zoo.roof import tiles",
        "def late():\n    from .roof import tiles",
    ],
)
def test_no_spelling_of_an_import_may_lead_upward(tmp_path: Path, source: str) -> None:
    (tmp_path / "cellar.py").write_text("")
    (tmp_path / "roof.py").write_text("from .cellar import wine")
    assert HOUSE["floors"](tmp_path) == [("cellar",), ("roof",)]
    (tmp_path / "cellar.py").write_text(source)
    with pytest.raises(ValueError, match=r"cellar.*roof"):
        HOUSE["floors"](tmp_path)


def test_an_import_upward_from_a_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cellar").mkdir()
    (tmp_path / "roof.py").write_text("from .cellar import wine")
    (tmp_path / "cellar" / "shelf.py").write_text("from ..roof import tiles")
    with pytest.raises(ValueError, match="circle"):
        HOUSE["floors"](tmp_path)
