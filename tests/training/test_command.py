"""``allcnn-zoo train``, as a user runs it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from allcnn_zoo import training
from allcnn_zoo.cli import main
from allcnn_zoo.training import loop
from allcnn_zoo.training.run_directory import draw_curve

from .conftest import TINY_MODERN


@pytest.fixture
def train(
    small_cifar10: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Train in this process by a tiny recipe called "best"; gives status, output, errors."""
    tiny = dataclasses.replace(TINY_MODERN, name="best")
    monkeypatch.setitem(training.RECIPES, "best", tiny)
    monkeypatch.setattr(loop, "launch", lambda work, job, _: work(loop.World(), job))

    def run(*words: str) -> tuple[int, str, str]:
        options = ["--data", str(small_cifar10), "--out", str(tmp_path / "run")]
        status = main(["train", *options, *words])
        return status, *capsys.readouterr()

    return run


def test_a_run_leaves_weights_results_metrics_and_a_curve(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_curve", draw_curve)
    status, out, err = train("--epochs", "2", "--holdout", "20", "--test", "--json")
    assert status == 0
    results = json.loads(out)
    assert "epoch 2/2" in err
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {"weights.safetensors", "results.json", "metrics.jsonl", "run.json"}
    assert ("curve.png" in files) != ("no curve.png: matplotlib is missing" in err)
    assert results["held_out"]["images"] == results["test"]["images"] == 20
    assert results["wall_seconds"] >= results["training_seconds"] > 0
    assert (results["seed"], results["training_images"]) == (0, 80)
    assert err.splitlines()[0] == "best: allcnn_c, cifar10, float32, 80 images, 1 x cpu"
    assert {"recipe", "commit", "versions", "machine", "started", "finished"} <= results.keys()


def test_errors_are_one_line_and_a_finished_run_can_be_resumed(train: Any) -> None:
    once = ("--epochs", "1", "--model", "base_a", "--precision", "bfloat16")
    status, _, err = train(*once)
    assert status == 0, err
    assert "base_a, cifar10, bfloat16" in err
    status, out, _ = train(*once, "--resume")
    assert status == 0
    assert "weights.safetensors" in out
    for words, message in (
        (once, "already holds a run; continue it with --resume"),
        ((*once, "--seed", "1", "--resume"), "was started with seed=0, not 1"),
        ((*once, "--epochs", "2", "--resume"), "was started with recipe.epochs=1, not 2"),
        (("--recipe", "plian"), "no recipe is called 'plian'; did you mean 'plain'?\n"),
        (("--model", "bace_a"), "no network is called 'bace_a'; did you mean 'base_a'?\n"),
        (("--seed", "-1"), "seed=-1: 0 or more is needed"),
    ):
        status, _, err = train(*words)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("allcnn-zoo: error: ")
        assert message in err


def test_under_torchrun_only_the_first_process_explains_an_error(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        train("--recipe", "plian")
    assert stop.value.code == 1
