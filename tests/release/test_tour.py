"""The notebook runs from top to bottom."""

import nbclient
import nbformat

from ..conftest import EXAMPLES

FOLDER = EXAMPLES.parent
TOUR = FOLDER / "tour.ipynb"


def test_the_tour_runs_from_top_to_bottom() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": FOLDER}}).execute()
    outputs = [output for cell in tour.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "cat.png" in text
    assert "right on 20 images" in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_its_outputs_are_not_committed() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in tour.cells)
