"""Draws the pictures of README and docs: one look, from results files, shipped weights and data.

    python docs/figures.py [NAME ...]    # all of them by default; some need CIFAR-10

docs/pictures/sources.json has a digest of what each picture was drawn from. generate.py --check
compares it with what is there now, so a picture cannot be older than its data.
"""

import functools
import hashlib
import io
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tables
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageDraw, ImageFont

import allcnn_zoo
from allcnn_zoo import Classifier, Weights, cifar
from allcnn_zoo.explanation import (
    METHODS,
    draw_explanation,
    draw_filters,
    draw_layer,
    top_activations,
)
from allcnn_zoo.images import to_batch

PICTURES = tables.ROOT / "docs" / "pictures"
SOURCES = PICTURES / "sources.json"
EXAMPLES = sorted((tables.ROOT / "examples" / "images").glob("*.png"))
ELSEWHERE = {"architecture.svg", "try_it.png"}  # of draw_architecture.py and measure_page.py

WIDTH = 5.2  # inches: on a phone, the text can still be read
PERCENT = PercentFormatter(1, decimals=0, symbol=" %")
INK, GRAY, FAINT = "#1d2b2b", "#56625f", "#dfe5e5"
ACCENT, CONTRAST = "#0b6e6e", "#b34a10"
WHITE_TO_CONTRAST = LinearSegmentedColormap.from_list("mistakes", ["#f4f6f6", "#f0b08c"])

mpl.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": FAINT,
        "axes.grid": True,
        "axes.labelcolor": GRAY,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
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
        "xtick.labelcolor": GRAY,
        "ytick.color": FAINT,
        "ytick.labelcolor": GRAY,
    }
)

Draw = Callable[[Path], None]


def pictures() -> dict[str, tuple[list[Path], Draw]]:
    """Each picture with the files that it is drawn from, and how."""
    results, shown = tables.RESULTS, allcnn_zoo.download(tables.SHOWN)
    known: dict[str, tuple[list[Path], Draw]] = {
        "training.svg": ([results / "training" / f"{name}.jsonl" for name in RUNS], draw_training),
        "speed.svg": ([results / "inference.json"], draw_speed),
        "faithful.svg": ([results / "faithful.json"], draw_faithful),
        "what_it_sees.png": ([shown, *EXAMPLES], draw_what_it_sees),
        "explain_conv5.png": ([shown], draw_features),
        "explain_filters.png": ([shown], draw_first_filters),
    }
    for method in METHODS:
        known[f"explain_{method}.png"] = ([shown], functools.partial(draw_signal, method))
    compared = [tables.trained_as_in_the_paper(name) for name in allcnn_zoo.list_models()]
    if found := [allcnn_zoo.download(weights) for weights in compared if weights]:
        known["paper_table.svg"] = (found, draw_paper_table)
    for weights in allcnn_zoo.list_weights():
        if weights.bundled and tables.measured_of(weights):
            for kind, draw_kind in CARD_PICTURES.items():
                draw = functools.partial(draw_kind, weights)
                known[f"{weights.name}_{kind}.svg"] = ([tables.measured_path(weights)], draw)
        if weights.bundled and len(weights.classes) <= 20:
            draw = functools.partial(draw_confusion, weights)
            known[f"{weights.name}_confusion.svg"] = ([allcnn_zoo.download(weights)], draw)
    return known


def digest(sources: list[Path]) -> str:
    """One digest of several files."""
    content = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)
    return hashlib.sha256(content).hexdigest()


def stale() -> list[str]:
    """Pictures that are missing, older than what they show, or of nothing any more."""
    drawn = json.loads(SOURCES.read_text())
    now = {name: digest(sources) for name, (sources, _) in pictures().items()}
    there = {path.name for path in PICTURES.iterdir()} - {SOURCES.name} - ELSEWHERE
    old = {name for name in now if drawn.get(name) != now[name] or name not in there}
    cards = {
        f"{weights.name}_{kind}.svg"
        for weights in allcnn_zoo.list_weights()
        if weights.bundled
        for kind in CARD_PICTURES
    }
    return sorted(old | (cards - now.keys()) | (there - now.keys()))


# The paper's table, and speed.


def draw_paper_table(path: Path) -> None:
    """Each network's error in the paper and in ours, as two points on a line."""
    figure, axes = plot(height=4.4)
    names = allcnn_zoo.list_models()
    for row, name in enumerate(names):
        paper, ours = tables.CIFAR10_PAPER_ERRORS[name], tables.trained_as_in_the_paper(name)
        axes.plot(paper, row, "o", color=GRAY, label="paper" if not row else None)
        if ours is not None:
            error = 100 - ours.metrics["top1"]
            axes.plot([paper, error], [row, row], color=FAINT, zorder=0, linewidth=2)
            axes.plot(error, row, "o", color=ACCENT)
    axes.plot([], [], "o", color=ACCENT, label="ours, one run each")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title="Test error without augmentation", xlabel="error, %")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    save(figure, path)


def draw_speed(path: Path) -> None:
    """Images per second from uint8 images to labels, in batches of 512."""
    kind = tables.LARGE[-1]
    rows = [row for row in tables.measured("inference")["rows"] if kind in row["seconds"]]
    rows.sort(key=lambda row: tables.speed_of(row, kind))
    names = [f"{row['name']}, {row['precision']}" for row in rows]
    speeds = [tables.speed_of(row, kind) for row in rows]
    colors = {"float32": GRAY, "bfloat16": ACCENT, "int8": CONTRAST}
    figure, axes = plot(height=0.8 + 0.27 * len(rows))
    bars = axes.barh(names, speeds, color=[colors[row["precision"]] for row in rows], height=0.7)
    axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=3)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["ours"] else "normal")
    axes.set(title="Batches of 512", xlabel="images per second")
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.15, y=0.01)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    save(figure, path)


# Training.

RUNS = {
    "cifar10_best": "best: 135 epochs, on a GPU",
    "cifar10_plain_selection": "plain: 14 epochs, 5,000 held out",
}
NERVANA = 89.5  # top-1 on the test images, as claimed


def draw_training(path: Path) -> None:
    """How accuracy grew in runs of the recipes."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    panels = figure.subplots(len(RUNS), 1)
    for axes, (name, title) in zip(panels, RUNS.items(), strict=True):
        lines = (tables.RESULTS / "training" / f"{name}.jsonl").read_text().splitlines()
        _draw_run(axes, [json.loads(line) for line in lines])
        axes.set(title=title, ylabel="accuracy, %", xlim=(0, None), ylim=(50, 100))
    panels[-1].set_xlabel("minutes of training")
    panels[1].legend(loc="lower right")
    save(figure, path)


def _draw_run(axes: Axes, lines: list[dict[str, Any]]) -> None:
    minutes = [seconds / 60 for seconds in itertools.accumulate(line["seconds"] for line in lines)]
    for key, label, color, marker in (
        ("train_accuracy", "in training", GRAY, ""),
        ("held_out_accuracy", "held out", ACCENT, "o"),
    ):
        points = [(x, 100 * line[key]) for x, line in zip(minutes, lines, strict=True) if line[key]]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, marker=marker, markersize=4, label=label)
    axes.axhline(NERVANA, color=CONTRAST, linestyle="--", linewidth=1, label="Nervana's weights")


# Agreement with neon.


def draw_faithful(path: Path) -> None:
    """How far outputs are from neon's own."""
    measured = tables.measured("faithful")
    full = measured["full_width"]
    decades = 10 ** np.array(full["histogram"]["decades"])
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])

    upper.set_title(f"{full['images']:,} test images, from pixels to softmax")
    upper.stairs(full["histogram"]["images"], decades, fill=True, color=ACCENT)
    smaller = full["images"] - sum(full["histogram"]["images"])
    upper.text(decades[0], 250, f"{smaller} more are smaller", color=GRAY)
    upper.set_ylabel("images")
    upper.yaxis.set_major_formatter("{x:,.0f}")

    lower.set_title("Other genuine files of neon")
    groups = {
        "All-CNN-C": [each["worst"] for each in measured["small_files"]],
        "other networks": [each["worst_relative"] for each in measured["other_networks"]],
    }
    for row, values in enumerate(groups.values()):
        spread = row + 0.25 * (np.arange(len(values)) % 3 - 1)
        lower.plot(values, spread, "o", color=CONTRAST, markersize=5, alpha=0.75)
    lower.set_yticks(range(len(groups)), list(groups))
    lower.set_ylim(len(groups) - 0.5, -0.5)
    lower.set_xlabel("largest difference from neon's own output, log scale")

    rounding = 2.0**-23
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.axvline(rounding, color=GRAY, linestyle="--", linewidth=1)
    upper.annotate(
        "spacing of float32\nnumbers at 1",
        (rounding, 0.9),
        xytext=(-14, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="top",
        color=GRAY,
    )
    save(figure, path)


# Model cards.


def draw_confusion(weights: Weights, path: Path) -> None:
    """The confusion matrix; only mistakes are colored."""
    counts = np.array(tables.header_of(weights).metrics["test"]["confusion"])
    mistakes = counts * (1 - np.eye(len(counts), dtype=int))
    figure, axes = plot(height=4.6)
    axes.grid(visible=False)
    axes.pcolormesh(mistakes, cmap=WHITE_TO_CONTRAST, edgecolors="white", linewidth=1.5)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color, weight = (ACCENT, "bold") if row == column else (INK, "normal")
            style = {"color": color, "weight": weight, "size": 8}
            axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", **style)
    places = np.arange(len(counts)) + 0.5
    axes.set_xticks(places, weights.classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, weights.classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set(xlabel="predicted", ylabel="true")
    save(figure, path)


def draw_reliability(weights: Weights, path: Path) -> None:
    """Accuracy by confidence, and how many answers have that confidence."""
    measured = tables.measured(f"weights/{weights.name}")
    bins, width = measured["bins"], 1 / 15
    left = np.array([each["from"] for each in bins])
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    bar = {"width": width, "align": "edge", "edgecolor": "white"}
    upper.bar(left, [each["accuracy"] for each in bins], color=ACCENT, **bar)
    confidence = [each["confidence"] for each in bins]
    upper.hlines(confidence, left, left + width, color=CONTRAST, linewidth=2, label="confidence")
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=0.8)
    upper.legend(loc="upper left")
    upper.set(ylabel="accuracy", ylim=(0, 1))
    lower.bar(left, [each["images"] / measured["images"] for each in bins], color=GRAY, **bar)
    lower.set(xlabel="confidence", ylabel="answers", xlim=(0, 1), ylim=(0, 1))
    for axes in (upper, lower):
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    save(figure, path)


def draw_mistakes(weights: Weights, path: Path) -> None:
    """The mistakes of which the network was surest."""
    images = getattr(cifar, weights.dataset.replace("-", ""))().test.images
    mistakes = tables.measured(f"weights/{weights.name}")["most_confident_mistakes"]
    figure = Figure(figsize=(WIDTH, 3.25), layout="constrained")
    panels = figure.subplots(2, -(-len(mistakes) // 2)).flat
    for axes, mistake in zip(panels, mistakes, strict=True):
        axes.imshow(images[mistake["row"]].transpose(1, 2, 0), interpolation="none")
        axes.set_axis_off()
        certainty = tables.percent(mistake["probability"])
        title = f"{mistake['predicted']}\n{certainty}\ntrue: {mistake['true']}"
        axes.set_title(title, size=8, weight="normal")
    save(figure, path)


CARD_PICTURES = {"reliability": draw_reliability, "mistakes": draw_mistakes}


# What the network sees.


def draw_what_it_sees(path: Path) -> None:
    """Ten test images, as whitened, and the predictions; these also go into a results file."""
    cell, gap, text = 112, 12, 84
    classifier = Classifier.from_pretrained(tables.SHOWN, engine="torch")
    batch = to_batch(EXAMPLES)
    whitened = classifier.model.preprocess(batch).numpy()
    predictions = classifier(EXAMPLES)

    step, columns = cell + gap, 10
    rows = -(-len(EXAMPLES) // columns)
    height = 2 * step + text
    canvas = Image.new("RGB", (step * columns + gap, rows * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=20)
    for number, (name, prediction) in enumerate(zip(EXAMPLES, predictions, strict=True)):
        left, top = gap + number % columns * step, gap + number // columns * height
        canvas.paste(_enlarged(batch[number].numpy(), cell), (left, top))
        # Gray is zero, three deviations are full contrast.
        seen = 127.5 + whitened[number] * 127.5 / (3 * whitened[number].std())
        canvas.paste(_enlarged(seen.clip(0, 255).astype(np.uint8), cell), (left, top + step))
        top += 2 * step
        color = ACCENT if prediction.label == name.stem else CONTRAST
        bar = (left, top + 52, left + cell, top + 60)
        draw.text((left, top), prediction.label, fill=INK, font=font)
        percentage = tables.percent(prediction.probability, 0)
        draw.text((left, top + 24), percentage, fill=color, font=font)
        draw.rounded_rectangle(bar, 4, fill=FAINT)
        end = left + max(8, round(cell * prediction.probability))
        draw.rounded_rectangle((*bar[:2], end, bar[3]), 4, fill=color)
    canvas.save(path, optimize=True)
    found = {
        image.stem: {"label": each.label, "text": str(each)}
        for image, each in zip(EXAMPLES, predictions, strict=True)
    }
    report = {"weights": tables.SHOWN, "predictions": found}
    (tables.RESULTS / "examples.json").write_text(json.dumps(report, indent=1) + "\n")


def _enlarged(pixels: np.ndarray, size: int) -> Image.Image:
    """uint8 (3, 32, 32) as a larger picture, every pixel still visible."""
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize((size, size), Image.Resampling.NEAREST)


def draw_signal(method: str, path: Path) -> None:
    """What drives the prediction of one image, by one method."""
    classifier = Classifier.from_pretrained(tables.SHOWN, engine="torch")
    image = next(each for each in EXAMPLES if each.stem == "horse")
    picture = draw_explanation(classifier, image, method=method, title=image.name)
    picture.save(path, optimize=True)


def draw_first_filters(path: Path) -> None:
    """The filters of the first convolution."""
    draw_filters(allcnn_zoo.load(tables.SHOWN)).save(path, optimize=True)


def draw_features(path: Path) -> None:
    """What feature maps of one layer look for, in the first 2,000 test images."""
    model = allcnn_zoo.load(tables.SHOWN)
    images = allcnn_zoo.CIFAR10().test.images[:2000]
    layer = top_activations(model, images)["conv5"]
    draw_layer(model, images, layer, maps=6).save(path, optimize=True)


# Files.


def plot(height: float) -> tuple[Figure, Axes]:
    """A figure of this height in inches, with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG, the same bytes each time; text stays text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(
        r"<!--.*?-->|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL
    )
    # Hundredths of a point are enough, and the font is whatever the reader has.
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg.replace("'DejaVu Sans'", "DejaVu Sans, sans-serif"))
    path.write_text(re.sub(r"\s*\n\s*", "\n", svg))


def main(names: list[str]) -> None:
    """Draw all, or those named, and note what from; remove what shows nothing any more."""
    known = pictures()
    drawn = json.loads(SOURCES.read_text()) if SOURCES.exists() else {}
    drawn = {name: drawn[name] for name in sorted(drawn) if name in known}
    for path in PICTURES.iterdir():
        if path.name not in {*known, *ELSEWHERE, SOURCES.name}:
            path.unlink()
    for name, (sources, draw) in known.items():
        if not names or name in names:
            print(name)
            draw(PICTURES / name)
            drawn[name] = digest(sources)
            SOURCES.write_text(json.dumps(drawn, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
