"""The directory of a run: its files, and how a run continues.

run.json             what was run: recipe, seed, split, commit, versions, machine, times
state.pt             parameters, optimizer state and position, replaced after every epoch
metrics.jsonl        one line per epoch
weights.safetensors  the plain network, when done
results.json         every figure of it, when done
curve.png            loss and accuracies over the epochs, when done, if matplotlib is installed
lock                 held by the training that uses the directory
"""

import io
import json
import os
import pickle
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from ..errors import TrainingError
from ..machine import describe_machine
from ..storage import write_atomically
from ..version import __version__


class RunDirectory:
    """The files of one run, in a directory that is created on the first write."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state = self.path / "state.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.weights = self.path / "weights.safetensors"
        self.results = self.path / "results.json"
        self.curve = self.path / "curve.png"
        self.description = self.path / "run.json"
        self._lock = filelock.FileLock(self.path / "lock", timeout=0)

    def start(self, facts: dict[str, Any], *, resume: bool) -> None:
        """Create and lock the directory, and describe the run, unless it is resumed.

        The lock is held until `release` or the end of this process.
        """
        if self.state.exists() and not resume:
            raise TrainingError(
                f"{self.path} already holds a run; continue it with --resume, or choose another"
                " --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise TrainingError(
                f"another training uses {self.path}; choose another --out"
            ) from error
        if not self.state.exists():
            self.metrics.unlink(missing_ok=True)
            versions = {
                "allcnn_zoo": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            }
            made = {"commit": commit(), "versions": versions, "machine": describe_machine()}
            _write_json(self.description, {**facts, "started": _now(), **made})

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def precision(self) -> Any:
        """The precision of the run in this directory; None if there is none."""
        try:
            return json.loads(self.description.read_text("utf-8"))["recipe"]["precision"]
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, completely or not at all."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.state, buffer.getvalue())

    def load_state(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """The checkpoint of a run with the same `facts`, on the CPU; None if there is none yet."""
        if not self.state.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)
            found = state["facts"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise TrainingError(f"cannot continue from {self.state}: {error!r:.200}") from error
        for name, old, new in _differences(found, facts):
            raise TrainingError(
                f"{self.path} was started with {name}={old!r:.200}, not {new!r:.200}; use another"
                " --out, or the same options"
            )
        return state

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Write the line of an epoch, after those of earlier epochs."""
        # A run that was interrupted before it saved its state has already written this line.
        lines = [old for old in self.read_metrics() if old["epoch"] < line["epoch"]]
        text = "".join(json.dumps(entry) + "\n" for entry in [*lines, line])
        write_atomically(self.metrics, text.encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines so far."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Write the results with all facts of the run; returns what was written."""
        description: dict[str, Any] = json.loads(self.description.read_text(encoding="utf-8"))
        results = {**description, "finished": _now(), **results}
        _write_json(self.results, results)
        return results


def time_to_accuracy(lines: list[dict[str, Any]], accuracy: float) -> tuple[int, float] | None:
    """Epochs, and seconds of wall-clock time, until held-out images reached an accuracy (0...1).

    `lines` are those of ``metrics.jsonl``. None if no measurement reached it.
    """
    seconds = 0.0
    for line in lines:
        seconds += line["wall_seconds"]
        if (line["held_out_accuracy"] or 0) >= accuracy:
            return line["epoch"], seconds
    return None


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def commit() -> str | None:
    """The commit of the checkout that this package runs from, marked if there are changes.

    None if it is installed elsewhere, also in a virtual environment inside another repository.
    """
    git, sources = shutil.which("git"), Path(__file__).parents[2]
    root, project = sources.parent, sources.parent / "pyproject.toml"
    if git is None or sources.name != "src" or not (root / ".git").exists():
        return None
    if not project.is_file() or 'name = "allcnn-zoo"' not in project.read_text("utf-8", "replace"):
        return None  # somebody else's project, which has a copy of this package
    # In a hook of git's, variables name the repository that the hook is for.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}

    def ask(*words: str) -> str | None:
        done = subprocess.run(  # noqa: S603
            (git, "-C", str(root), *words),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        return done.stdout.strip() or None

    # What git does not know here is a copy in somebody else's repository.
    return ask("ls-files", "--", __file__) and ask("describe", "--always", "--dirty", "--abbrev=40")


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values in which nested mappings differ, with names like ``recipe.epochs``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in new.items():
            yield from _differences(old.get(key), value, f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new


def draw_curve(lines: list[dict[str, Any]], title: str) -> bytes | None:
    """The `lines` of ``metrics.jsonl`` as a picture, a PNG file; None without matplotlib."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would look for a display
    except ImportError:
        return None

    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(8, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [line["train_loss"] for line in lines])
    loss.set(title=title, xlabel="epoch", ylabel="training loss", yscale="log")
    accuracy.plot(epochs, [100 * line["train_accuracy"] for line in lines], label="training views")
    measured = {line["epoch"]: line["held_out_accuracy"] for line in lines}
    held_out = {epoch: 100 * found for epoch, found in measured.items() if found is not None}
    if held_out:
        accuracy.plot(list(held_out), list(held_out.values()), marker=".", label="held out")
    accuracy.set(xlabel="epoch", ylabel="accuracy, %")
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()
