"""One look for every plot in the documentation: a white card, quiet axes, the same bytes each time.

Text in the SVG files stays text, in whatever sans-serif font the reader has.
"""

import io
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, GREY, FAINT = "#1d2b2b", "#61706f", "#dfe5e5"
ACCENT, CONTRAST = "#0b6e6e", "#c2571a"
WHITE_TO_CONTRAST = LinearSegmentedColormap.from_list("mistakes", ["#f4f6f6", CONTRAST])

mpl.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": FAINT,
        "axes.grid": True,
        "axes.labelcolor": GREY,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "figure.facecolor": "white",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "allcnn_zoo",
        "text.color": INK,
        "xtick.color": FAINT,
        "xtick.labelcolor": GREY,
        "ytick.color": FAINT,
        "ytick.labelcolor": GREY,
    }
)


def plot(width: float = 7.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG; the file says nothing of when and with what it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(_shortened(text.getvalue()))


def _shortened(svg: str) -> str:
    """The same picture in half the bytes: hundredths of a point are enough."""
    svg = re.sub(r"<!--.*?-->|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg.replace("'DejaVu Sans'", "DejaVu Sans, sans-serif"))
    return re.sub(r"\s*\n\s*", "\n", svg)
