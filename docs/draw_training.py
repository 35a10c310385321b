"""Draws how accuracy grew in the runs of the recipes, from benchmarks/results/training.

python docs/draw_training.py
"""

import itertools
import json
from pathlib import Path
from typing import Any

import plots
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RUNS = {
    "cifar10_best": "best: 66 epochs, no images held out",
    "cifar10_plain_selection": "plain: 14 epochs, 5,000 images held out",
}
PUBLISHED = 89.5  # Nervana's weights, on the test images


def draw(axes: Axes, title: str, lines: list[dict[str, Any]]) -> None:
    """Accuracy in training and on images held out, by the minutes that training took."""
    minutes = [seconds / 60 for seconds in itertools.accumulate(line["seconds"] for line in lines)]
    for key, label, colour, marker in (
        ("train_accuracy", "in training", plots.GREY, ""),
        ("held_out_accuracy", "held out", plots.ACCENT, "o"),
    ):
        points = [(x, line[key]) for x, line in zip(minutes, lines, strict=True) if line[key]]
        axes.plot(
            [x for x, _ in points],
            [100 * y for _, y in points],
            color=colour,
            marker=marker,
            markersize=4,
            label=label,
        )
    axes.axhline(PUBLISHED, color=plots.CONTRAST, linestyle="--", linewidth=1)
    axes.annotate(
        "Nervana's weights",
        (1, PUBLISHED),
        xytext=(0, -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top",
        color=plots.CONTRAST,
    )
    axes.set_title(title)
    axes.set_xlabel("minutes of training")
    axes.set_ylim(50, 100)


def main() -> None:
    """Write docs/pictures/training.svg."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(RUNS), sharey=True)
    for axes, (name, title) in zip(panels, RUNS.items(), strict=True):
        path = ROOT / "benchmarks" / "results" / "training" / f"{name}.jsonl"
        draw(axes, title, [json.loads(line) for line in path.read_text().splitlines()])
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(loc="lower right")
    plots.save(figure, ROOT / "docs" / "pictures" / "training.svg")


if __name__ == "__main__":
    main()
