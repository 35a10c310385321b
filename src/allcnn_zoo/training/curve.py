"""The curve of a run as a picture, where matplotlib is there (``allcnn-zoo[plots]``)."""

import importlib.util
import io
from typing import Any


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curve(lines: list[dict[str, Any]], title: str) -> bytes:
    """Loss and accuracies over the epochs, as a PNG file.

    Args:
        lines: Those of ``metrics.jsonl``.
        title: What was run.
    """
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    epochs = [line["epoch"] for line in lines]
    measured = [line for line in lines if line["held_out_accuracy"] is not None]
    figure = Figure(figsize=(8, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [line["train_loss"] for line in lines])
    loss.set(title=title, xlabel="epoch", ylabel="training loss", yscale="log")
    accuracy.plot(epochs, [100 * line["train_accuracy"] for line in lines], label="training views")
    if measured:
        percentages = [100 * line["held_out_accuracy"] for line in measured]
        accuracy.plot(
            [line["epoch"] for line in measured], percentages, marker=".", label="held out"
        )
    accuracy.set(xlabel="epoch", ylabel="accuracy, %")
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()
