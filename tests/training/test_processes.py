"""Several processes do what one does, and fail as one."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from allcnn_zoo.cifar import CIFAR10
from allcnn_zoo.classifier import Classifier
from allcnn_zoo.distributed import World, launch
from allcnn_zoo.errors import LostProcessError, TrainingError
from allcnn_zoo.evaluation import _share
from allcnn_zoo.training import Recipe, loop
from allcnn_zoo.zoo import load

from . import workers
from .conftest import TINY_MODERN, TINY_NEON
from .test_survival import assert_same_weights, weights_of

TORCHRUN = """
import dataclasses, sys
from pathlib import Path
from allcnn_zoo import training
from tests.training.conftest import TINY_MODERN
training.train(TINY_MODERN, sys.argv[1], sys.argv[2], seed=3, holdout=20)
"""


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(word) for word in words]
    # One thread each is what torchrun chooses where nothing is said; other numbers add otherwise.
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )


def test_two_processes_do_what_one_does(
    make_job: Callable[..., loop.Job], tmp_path: Path, small_cifar10: Path
) -> None:
    recipes = [TINY_MODERN, TINY_NEON]
    alone = [make_job(recipe, f"alone_{recipe.name}") for recipe in recipes]
    together = [make_job(recipe, f"together_{recipe.name}") for recipe in recipes]
    for job in alone:
        loop.run(World(), job)
    launch(workers.train_each, together, processes=2)
    # They add the same gradients in another order. Muon then rounds to bfloat16 on the way.
    assert largest_difference(together[0], alone[0]) < 1e-3
    assert largest_difference(together[1], alone[1]) < 1e-6

    script = tmp_path / "script.py"
    script.write_text(TORCHRUN)
    launched = make_job(TINY_MODERN, "torchrun")
    done = torchrun(script, small_cifar10, launched.out)
    assert done.returncode == 0, done.stderr
    assert_same_weights(together[0], launched)
    assert done.stderr.count("epoch 3/3") == 1


def test_processes_share_the_work_of_muon_and_change_nothing() -> None:
    shapes = [(96, 3, 3, 3), (96, 96, 3, 3), (192, 96, 3, 3), (192, 192, 1, 1)]
    alone = workers.three_steps_of_muon(World(), shapes)
    shared = launch(workers.three_steps_of_muon, shapes, processes=3)
    assert all(map(torch.equal, shared, alone))


def largest_difference(left: loop.Job, right: loop.Job) -> float:
    """Of the weights, relative to the largest of each layer's kernel."""
    one, other = weights_of(left), weights_of(right)
    kernels = [name for name in one if name.endswith("weight")]
    return max(
        float((one[name] - other[name]).abs().max() / other[name].abs().max()) for name in kernels
    )


def test_sharded_evaluation_gives_the_figures_of_one_process(
    make_job: Callable[..., loop.Job], small_cifar10: Path
) -> None:
    job = make_job(dataclasses.replace(TINY_MODERN, epochs=1))
    loop.run(World(), job)
    words = ["-m", "allcnn_zoo", "eval", "--weights", str(job.out / "weights.safetensors")]
    words += ["--data", str(small_cifar10), "--split", "train", "--batch-size", "16"]
    alone = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=True, timeout=300
    )
    together = torchrun(*words)
    assert together.returncode == 0, together.stderr

    def figures(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("time")]

    assert figures(together.stdout) == figures(alone.stdout)


@pytest.mark.parametrize(("count", "batch"), [(100, 16), (1, 32), (64, 32), (10, 3)])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_every_image_once_in_whole_batches(count: int, batch: int, size: int) -> None:
    everything = np.arange(count)
    shares = [everything[_share(count, batch, World(rank, size))] for rank in range(size)]
    assert np.array_equal(np.concatenate(shares), everything)
    assert all(share[0] % batch == 0 for share in shares if len(share))


def test_weights_load_and_compute_what_was_measured(
    recipe: Recipe, make_job: Callable[..., loop.Job]
) -> None:
    job = make_job(recipe, test=True)
    trainer = loop.Trainer(World(), job)
    trainer.fit()
    results = trainer.finish()
    trainer.directory.release()
    assert results["fold_error"] < 1e-5
    model = load(job.out / "weights.safetensors")
    assert model.architecture.num_classes == 10
    with torch.no_grad(), trainer._measured():
        images = trainer.whiten(trainer.images[:32])
        expected = trainer.learner.logits(images)[:, :10]
        assert torch.allclose(model(images), expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert model.weights.temperature == results["temperature"]
    test = CIFAR10(job.data).test
    accuracy = (Classifier(model).predict_proba(test.images).argmax(1) == test.labels).mean()
    assert accuracy == results["test"]["accuracy"] == model.weights.metrics["test"]["accuracy"]


def test_the_first_error_is_everybodys() -> None:
    only_second, both, none = launch(workers.agree, None, processes=2)
    assert only_second == "DatasetError: no luck in 1"
    assert both == "TrainingError: no luck in 0"
    assert none == "done"


def test_a_lost_worker_ends_the_run() -> None:
    with pytest.raises(LostProcessError, match="process 1 of 2 was killed by SIGKILL"):
        launch(workers.lose_the_second, None, processes=2)


def test_results_may_be_larger_than_a_pipe() -> None:
    assert len(launch(workers.return_much, 1_000_000, processes=1)) == 1_000_000


def test_errors_cross_processes_and_mistakes_show_their_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(TrainingError, match="not today"):
        launch(workers.refuse, "not today", processes=1)
    with pytest.raises(LostProcessError, match="process 0 of 1 failed; its traceback is above"):
        launch(workers.stumble, "a mistake", processes=1)
    assert "RuntimeError: a mistake" in capfd.readouterr().err
