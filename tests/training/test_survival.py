"""Whatever happens to a run, it ends at the same weights, or stops with a clear word."""

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from allcnn_zoo.distributed import World
from allcnn_zoo.errors import TrainingError
from allcnn_zoo.training import NeonMethod, Recipe, run_directory
from allcnn_zoo.training.loop import Job, Trainer, run

from . import workers
from .conftest import TINY_MODERN, TINY_NEON


def weights_of(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.out / "weights.safetensors")


def assert_same_weights(left: Job, right: Job) -> None:
    one, other = weights_of(left), weights_of(right)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_kills_at_any_moment_do_not_change_the_weights(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    recipes = (TINY_MODERN, TINY_NEON)
    pairs = [[make_job(each, holdout=0, resume=kill) for kill in (False, True)] for each in recipes]
    # In a program of its own, which may fork: no threads have been started there.
    (tmp_path / "jobs").write_bytes(pickle.dumps(pairs))
    done = subprocess.run(
        [sys.executable, "-m", workers.__name__, str(tmp_path / "jobs")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert all(int(processes) > 3 for processes in done.stdout.split())
    for one, other in pairs:
        assert_same_weights(one, other)
        lines = (other.out / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_signal_after_every_batch_does_not_change_the_weights(
    recipe: Recipe, make_job: Callable[..., Job]
) -> None:
    recipe = dataclasses.replace(recipe, epochs=2)  # of three batches each
    undisturbed, stopped = (make_job(recipe, holdout=52, resume=each) for each in (False, True))
    run(World(), undisturbed)
    for stops in range(7):
        trainer = Trainer(World(), stopped)
        trainer.stop_requested = True
        if stops < 6:
            with pytest.raises(TrainingError, match="continue with --resume"):
                trainer.fit()
        else:
            trainer.fit()
            trainer.finish()
        trainer.directory.release()
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


def test_a_run_is_not_continued_as_another_and_the_difference_is_named(
    make_job: Callable[..., Job],
) -> None:
    recipe = dataclasses.replace(TINY_MODERN, epochs=1)
    job = make_job(recipe)
    run(World(), job)
    with pytest.raises(TrainingError, match="already holds a run; continue it with --resume"):
        run(World(), job)
    method = dataclasses.replace(recipe.method, kernel_momentum=0.5)
    another = dataclasses.replace(recipe, method=method)
    for other, options, message in (
        (recipe, {"seed": 4}, r"started with seed=3, not 4"),
        (recipe, {"holdout": 10}, "started with training_images=80, not 90"),
        (TINY_MODERN, {}, r"started with recipe\.epochs=1, not 3"),
        (recipe.for_model("base_c"), {}, r"recipe\.architecture\.name='allcnn_c', not 'base_c'"),
        (another, {}, r"recipe\.method\.kernel_momentum=0\.6, not 0\.5"),
    ):
        with pytest.raises(TrainingError, match=message):
            Trainer(World(), make_job(other, job.out, resume=True, **options))


def test_a_damaged_state_is_refused(make_job: Callable[..., Job]) -> None:
    job = make_job(TINY_MODERN, resume=True)
    (job.out / "state.pt").write_bytes(b"half a checkp")
    with pytest.raises(TrainingError, match="cannot continue from"):
        run(World(), job)


def test_two_trainings_in_one_directory_are_refused(make_job: Callable[..., Job]) -> None:
    job = make_job(TINY_MODERN, resume=True)
    first = Trainer(World(), job)
    with pytest.raises(TrainingError, match="another training uses"):
        Trainer(World(), job)
    first.directory.release()
    Trainer(World(), job).directory.release()


def test_only_our_own_checkout_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    def installed_at(*parts: str) -> str | None:
        module = tmp_path.joinpath(*parts, "allcnn_zoo", "training", "run_directory.py")
        module.parent.mkdir(parents=True, exist_ok=True)
        module.touch()
        monkeypatch.setattr(run_directory, "__file__", str(module))
        return run_directory.commit()

    git("init", "-q")
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "-qm", "A commit")
    for elsewhere in ((".venv", "lib", "site-packages"), ("third_party",), ("third_party", "src")):
        assert installed_at(*elsewhere) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "allcnn-zoo"\n')
    assert installed_at("src") is None  # a copy, of which the user's repository knows nothing
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git("add", "src", "pyproject.toml")
    git("commit", "-qm", "A copy, which the user's repository holds")
    assert installed_at("src") is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "allcnn-zoo"\n')
    git("commit", "-qam", "Our own")
    recorded = installed_at("src")
    assert recorded is not None
    assert len(recorded) == 40
    git("init", "-q", "theirs")
    with monkeypatch.context() as hook:  # of another repository
        hook.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
        assert installed_at("src") == recorded
    (tmp_path / "file").write_text("changed")
    assert installed_at("src") == f"{recorded}-dirty"
