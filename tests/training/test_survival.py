"""Whatever happens to a run, it ends at the same weights, or stops with a clear word."""

import dataclasses
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from allcnn_zoo.distributed import World
from allcnn_zoo.errors import TrainingError
from allcnn_zoo.training import NeonMethod, Recipe
from allcnn_zoo.training.loop import Job, Trainer, run

from . import workers
from .conftest import TINY_MODERN, TINY_NEON


def weights_of(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.out / "weights.safetensors")


def assert_same_weights(left: Job, right: Job) -> None:
    one, other = weights_of(left), weights_of(right)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_ten_kills_do_not_change_the_weights(recipe: Recipe, make_job: Callable[..., Job]) -> None:
    recipe = dataclasses.replace(recipe, epochs=5)
    undisturbed = make_job(recipe, "undisturbed", holdout=0)
    killed = make_job(recipe, "killed", holdout=0, resume=True)
    start = time.perf_counter()
    run(World(), undisturbed)
    whole = time.perf_counter() - start

    # A server that has imported everything forks each of the runs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workers.__name__])
    moments = random.Random(1412)
    for _ in range(10):
        ready = context.Event()
        process = context.Process(target=workers.train_alone, args=(killed, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0, whole / 4))
        process.kill()
        process.join()
    state = torch.load(killed.out / "state.pt", weights_only=True)
    assert state["epoch"] > 0
    run(World(), killed)
    assert_same_weights(undisturbed, killed)
    lines = (killed.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 6))


def test_a_signal_after_every_batch_does_not_change_the_weights(
    recipe: Recipe, make_job: Callable[..., Job]
) -> None:
    recipe = dataclasses.replace(recipe, epochs=2)
    undisturbed, stopped = make_job(recipe, "undisturbed"), make_job(recipe, "stopped", resume=True)
    run(World(), undisturbed)
    stops = 0
    while True:
        trainer = Trainer(World(), stopped)
        trainer.stop_requested = True
        try:
            trainer.fit()
        except TrainingError as error:
            assert "continue with --resume" in str(error)  # noqa: PT017
            stops += 1
        else:
            break
        finally:
            trainer.directory.release()
    trainer.finish()
    assert stops == 10
    assert_same_weights(undisturbed, stopped)
    results = [json.loads((job.out / "results.json").read_text()) for job in (undisturbed, stopped)]
    assert results[0]["held_out"] == results[1]["held_out"]


def test_numbers_that_are_not_finite_stop_the_run_and_keep_the_last_good_state(
    make_job: Callable[..., Job],
) -> None:
    # The second epoch's learning rate is beyond all bounds.
    recipe = dataclasses.replace(TINY_NEON, method=NeonMethod(0.3, steps=(1,), change=1e30))
    job = make_job(recipe)
    with pytest.raises(TrainingError, match=r"not finite in epoch 2, batch 2; the state before"):
        run(World(), job)
    state = torch.load(job.out / "state.pt", weights_only=True)
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert all(torch.isfinite(tensor).all() for tensor in state["learner"]["model"].values())


def test_an_existing_run_is_not_overwritten(make_job: Callable[..., Job]) -> None:
    recipe = dataclasses.replace(TINY_MODERN, epochs=1)
    run(World(), make_job(recipe))
    with pytest.raises(TrainingError, match="already holds a run; continue it with --resume"):
        run(World(), make_job(recipe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 4}, r"started with seed=3, not 4"), ({"holdout": 10}, "started with training_im")],
)
def test_a_run_is_not_continued_as_another(
    changes: dict[str, int], message: str, make_job: Callable[..., Job]
) -> None:
    recipe = dataclasses.replace(TINY_MODERN, epochs=1)
    run(World(), make_job(recipe))
    with pytest.raises(TrainingError, match=message):
        run(World(), make_job(recipe, resume=True, **changes))
    with pytest.raises(TrainingError, match="started with recipe="):
        run(World(), make_job(TINY_NEON, resume=True))


def test_a_damaged_state_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job(TINY_MODERN, resume=True)
    job.out.mkdir()
    (job.out / "state.pt").write_bytes(b"half a checkp")
    with pytest.raises(TrainingError, match="cannot continue from"):
        run(World(), job)


def test_two_trainings_in_one_directory_are_refused(make_job: Callable[..., Job]) -> None:
    job = make_job(TINY_MODERN, resume=True)
    first = Trainer(World(), job)
    with pytest.raises(TrainingError, match="another training is at work in"):
        Trainer(World(), job)
    first.directory.release()
    Trainer(World(), job).directory.release()


def test_a_killed_command_leaves_no_process_and_no_complaint(
    small_cifar10: Path, tmp_path: Path
) -> None:
    words = ["train", "--data", str(small_cifar10), "--out", str(tmp_path / "run")]
    words += ["--recipe", "plain", "--holdout", "20", "--processes", "1"]
    program = (
        "import sys, dataclasses; from allcnn_zoo import training, cli;"
        "tiny = dataclasses.replace(training.RECIPES['plain'], batch_size=64, epochs=1000);"
        "training.RECIPES['plain'] = tiny; sys.exit(cli.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "run.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        # The pipe ends when the last process that holds it does: nobody is left behind.
        _, errors = process.communicate(timeout=60)
    assert "leaked" not in errors
    assert "Traceback" not in errors
