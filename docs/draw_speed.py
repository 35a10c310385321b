"""Draws the picture of speed.md: images per second from uint8 images to labels, at batch 512.

python docs/draw_speed.py
"""

import json

import plots
from speed_tables import LARGE, PICTURE, RESULTS, speed_of

COLOURS = {"float32": plots.GREY, "bfloat16": plots.ACCENT, "int8": plots.CONTRAST}


def main() -> None:
    """Write docs/pictures/speed.svg."""
    report = json.loads((RESULTS / "inference.json").read_text())
    rows = [row for row in report["rows"] if LARGE[-1] in row["seconds"]]
    rows.sort(key=lambda row: speed_of(row, LARGE[-1]))
    names = [f"{row['name']}, {row['precision']}" for row in rows]
    speeds = [speed_of(row, LARGE[-1]) for row in rows]
    figure, axes = plots.plot(height=0.8 + 0.27 * len(rows))
    bars = axes.barh(names, speeds, color=[COLOURS[row["precision"]] for row in rows], height=0.7)
    axes.bar_label(bars, [f"{speed:.0f}" for speed in speeds], padding=3)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["ours"] else "normal")
    axes.set(title="From images to labels, batches of 512", xlabel="images per second")
    axes.grid(visible=False, axis="y")
    plots.save(figure, PICTURE)


if __name__ == "__main__":
    main()
