"""``allcnn-zoo train``, as a user runs it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from allcnn_zoo import training
from allcnn_zoo.cli import main
from allcnn_zoo.training import loop

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


def test_a_run_leaves_weights_results_metrics_and_a_curve(train: Any, tmp_path: Path) -> None:
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


def test_errors_are_one_line(train: Any) -> None:
    status, _, err = train("--recipe", "plian")
    assert status == 1
    assert err == ("allcnn-zoo: error: no recipe is called 'plian'; did you mean 'plain'?\n")
    assert train("--epochs", "1")[0] == 0
    status, _, err = train("--epochs", "1")
    assert status == 1
    assert "already holds a run" in err
    assert "--resume" in err
    status, _, err = train("--epochs", "1", "--seed", "1", "--resume")
    assert status == 1
    assert "was started with seed=0, not 1" in err
    status, _, err = train("--epochs", "2", "--resume")
    assert status == 1
    assert "was started with recipe.epochs=1, not 2" in err
    assert "seed=-1: 0 or more is needed" in train("--seed", "-1")[2]


def test_network_and_precision_are_options(train: Any) -> None:
    status, out, err = train(
        "--epochs", "1", "--model", "base_a", "--precision", "bfloat16", "--json"
    )
    assert status == 0, err
    recipe = json.loads(out)["recipe"]
    assert (recipe["architecture"]["name"], recipe["precision"]) == ("base_a", "bfloat16")
    assert "base_a, cifar10, bfloat16" in err
    status, _, err = train("--model", "bace_a")
    assert (status, err) == (
        1,
        "allcnn-zoo: error: no network is called 'bace_a'; did you mean 'base_a'?\n",
    )


def test_a_finished_run_can_be_resumed(train: Any) -> None:
    assert train("--epochs", "1")[0] == 0
    status, out, _ = train("--epochs", "1", "--resume")
    assert status == 0
    assert "weights.safetensors" in out


def test_under_torchrun_only_the_first_process_explains_an_error(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        train("--recipe", "plian")
    assert stop.value.code == 1
