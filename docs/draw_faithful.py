"""Draws how far outputs are from neon's, from benchmarks/results/faithful.json.

python docs/draw_faithful.py
"""

import json
from pathlib import Path

import numpy as np
import plots
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
ROUNDING = 2.0**-23  # the spacing of float32 numbers at 1


def main() -> None:
    """Write docs/pictures/faithful.svg."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "faithful.json").read_text())
    histogram = measured["full_width"]["histogram"]
    decades = 10 ** np.array(histogram["decades"])
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])

    upper.set_title("10,000 test images, pixels to softmax: worst output of each image")
    upper.stairs(histogram["images"], decades, fill=True, color=plots.ACCENT)
    smaller = measured["full_width"]["images"] - sum(histogram["images"])
    upper.text(decades[0], 250, f"{smaller} more are smaller", color=plots.GREY)
    upper.set_ylabel("images")

    lower.set_title("other genuine files of neon: worst output of each file")
    groups = {
        "All-CNN-C": [each["worst"] for each in measured["small_files"]],
        "other networks": [each["worst_relative"] for each in measured["other_networks"]],
    }
    for row, values in enumerate(groups.values()):
        spread = row + 0.25 * (np.arange(len(values)) % 3 - 1)
        lower.plot(values, spread, "o", color=plots.CONTRAST, markersize=5, alpha=0.75)
    lower.set_yticks(range(len(groups)), list(groups))
    lower.set_ylim(len(groups) - 0.5, -0.5)
    lower.set_xlabel("difference from neon's own output, log scale")

    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.axvline(ROUNDING, color=plots.GREY, linestyle="--", linewidth=1)
    upper.annotate(
        "spacing of float32\nnumbers at 1",
        (ROUNDING, 0.9),
        xytext=(-14, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="top",
        color=plots.GREY,
    )
    plots.save(figure, ROOT / "docs" / "pictures" / "faithful.svg")


if __name__ == "__main__":
    main()
