"""Several processes do what one does, fail as one, and start from anywhere."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allcnn_zoo import distributed
from allcnn_zoo.distributed import World, launch
from allcnn_zoo.errors import AllCNNZooError, LostProcessError
from allcnn_zoo.evaluation import _share
from allcnn_zoo.training import loop, train

from . import workers
from .conftest import TINY_MODERN, TINY_NEON
from .test_survival import assert_same_weights, weights_of

PATIENCE = 120


def program(*words: object, **environment: str) -> dict[str, Any]:
    """Arguments of `subprocess` for a Python program that finds this package and these tests."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, sys.path)])
    return {
        "args": [sys.executable, *map(str, words)],
        # One thread each is what torchrun chooses where nothing is said; other numbers add
        # otherwise.
        "env": {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        "text": True,
        "stderr": subprocess.PIPE,
        "stdout": subprocess.PIPE,
    }


@pytest.fixture(scope="module")
def jobs(make_job: Callable[..., loop.Job]) -> list[loop.Job]:
    """A training of each method, for two processes."""
    return [make_job(recipe) for recipe in (TINY_MODERN, TINY_NEON)]


@pytest.fixture(scope="module")
def together(jobs: list[loop.Job]) -> dict[str, Any]:
    """What two processes made of two trainings, and of much else."""
    threads, random = torch.get_num_threads(), torch.random.get_rng_state()
    result: dict[str, Any] = launch(workers.everything, jobs, processes=2)
    assert torch.get_num_threads() == threads  # the caller's are left alone
    assert torch.equal(torch.random.get_rng_state(), random)
    return result


def largest_difference(left: loop.Job, right: loop.Job) -> float:
    """Of the weights, relative to the largest of each layer's kernel."""
    one, other = weights_of(left), weights_of(right)
    kernels = [name for name in one if name.endswith("weight")]
    return max(
        float((one[name] - other[name]).abs().max() / other[name].abs().max()) for name in kernels
    )


def test_two_processes_do_what_one_does(
    together: Any, jobs: list[loop.Job], make_job: Callable[..., loop.Job]
) -> None:
    # They add the same gradients in another order. Muon then rounds to bfloat16 on the way.
    for job, tolerance in zip(jobs, (1e-3, 1e-6), strict=True):
        alone = make_job(job.recipe)
        loop.run(World(), alone)
        assert largest_difference(job, alone) < tolerance
    assert all(map(torch.equal, together["muon"], workers.three_steps_of_muon(World())))
    figures = workers.figures_of(World(), jobs[0])
    for name in ("nll", "ece"):
        assert together["figures"].pop(name) == pytest.approx(figures.pop(name), abs=1e-6)
    assert together["figures"] == figures
    assert len(together["much"]) == 1_000_000


def test_the_first_error_is_everybodys(together: Any) -> None:
    only_second, both, none = together["agreed"]
    assert only_second == "DatasetError: no luck in 1"
    assert both == "TrainingError: no luck in 0"
    assert none == "done"


def test_workers_know_nothing_of_the_script_and_keep_signals_for_the_loop(together: Any) -> None:
    assert together["script"] is None
    assert {signal.SIGINT, signal.SIGTERM} <= together["signals"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert sys.modules["__main__"].__dict__.get("__builtins__") is not None
    assert "glibc" not in os.environ.get("GLIBC_TUNABLES", "")


def test_torchruns_processes_do_what_ours_do(
    together: Any, jobs: list[loop.Job], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from allcnn_zoo.training import train\n"
        "from tests.training.conftest import TINY_MODERN, make_light\n"
        "make_light()\n"
        "for resume in (False, True):  # they meet again\n"
        "    results = train(TINY_MODERN, *sys.argv[1:], seed=3, holdout=20, resume=resume)\n"
        "print('first' if results else 'other', flush=True)\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = dataclasses.replace(jobs[0], out=tmp_path / "run")
    done = subprocess.run(
        **program(*words, script, job.data, job.out), check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert_same_weights(jobs[0], job)
    assert done.stderr.count("epoch 3/3") == 1
    # gloo may print, too.
    assert sorted(re.findall("first|other", done.stdout)) == ["first", "other"]


@pytest.mark.parametrize(("count", "batch"), [(100, 16), (1, 32), (64, 32), (10, 3)])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_every_image_once_in_whole_batches(count: int, batch: int, size: int) -> None:
    everything = np.arange(count)
    shares = [everything[_share(count, batch, World(rank, size))] for rank in range(size)]
    assert np.array_equal(np.concatenate(shares), everything)
    assert all(share[0] % batch == 0 for share in shares if len(share))


def test_a_process_lost_during_a_sum_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(LostProcessError, match=r"process 1 of 2 was lost: .*SIGKILL"):
        launch(workers.lose_the_second, tmp_path, processes=2)
    assert (tmp_path / "noticed").read_text() == "LostProcessError True"


def test_a_mistake_arrives_with_its_traceback() -> None:
    message = "^process 0 of 1 was lost: RuntimeError: a mistake$"
    with pytest.raises(LostProcessError, match=message) as caught:
        launch(workers.stumble, "a mistake", processes=1)
    assert "in stumble" in str(caught.value.__cause__)


def test_a_daemonic_process_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distributed.multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    shapes = [kernel.shape for kernel in launch(workers.three_steps_of_muon, None, processes=2)]
    assert shapes == [torch.Size(shape) for shape in workers.MUON_SHAPES]


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "first"},
        {"RANK": "3", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)
def test_half_an_environment_of_torchrun_is_one_line(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    message = r"^(cannot connect|RANK=).*; start .* with torchrun, or unset (both|all three)$"
    with pytest.raises(AllCNNZooError, match=message):
        train(TINY_MODERN, "nowhere", "nowhere")
    with pytest.raises(AllCNNZooError, match=message), distributed.launched():
        pass


def test_a_rank_that_is_no_number_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "major")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with distributed.launched() as world:
        assert world == World()


def test_a_signal_handler_of_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # Python tells of a handler that it has not set itself, as in an embedding program, as None.
    monkeypatch.setattr(distributed.signal, "signal", _unknown_to_python(signal.signal))
    with distributed.handling_signals(lambda *_: None):
        pass
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _unknown_to_python(real: Callable[..., Any]) -> Callable[..., Any]:
    def signal_(number: int, handler: Any) -> None:
        real(number, handler)  # a TypeError for None

    return signal_


# As a user starts it: by a script that is not guarded, from standard input.

SCRIPT = """
import dataclasses, pathlib, sys
from allcnn_zoo import cli, training
from allcnn_zoo.distributed import launch
from tests.training import workers
from tests.training.conftest import TINY_MODERN

training.RECIPES["plain"] = dataclasses.replace(TINY_MODERN, name="plain", epochs=1000)
data, out, folder = sys.argv[1:]
print(cli.main(["train", "--recipe", "plain", "--data", data, "--out", out, "--processes", "2"]))
for name in ("interrupted", "killed"):
    try:
        launch(workers.wait_for_a_signal, pathlib.Path(folder, name), processes=1)
    except Exception as error:
        print(error, flush=True)
"""


def test_real_signals_stop_what_comes_from_standard_input_and_leave_nothing(
    small_cifar10: Path, tmp_path: Path
) -> None:
    run, temporary = tmp_path / "run", tmp_path / "tempörär 100%20 é"
    temporary.mkdir()
    words = program("-", small_cifar10, run, tmp_path, TMPDIR=str(temporary))
    # In a process group of its own, as a terminal makes one.
    process = subprocess.Popen(**words, start_new_session=True, stdin=subprocess.PIPE)

    def wait_for(file: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not file.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    try:
        with process.stdin:
            process.stdin.write(SCRIPT)
        process.stdin = None
        wait_for(run / "metrics.jsonl")
        process.terminate()
        wait_for(tmp_path / "interrupted")
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches every process of the group
        wait_for(tmp_path / "killed")
        left = {path.name for path in temporary.iterdir()}
        process.kill()
        # The pipes end when the last process that holds them does: nobody is left behind.
        output, errors = process.communicate(timeout=PATIENCE)
    except BaseException:
        if process.returncode is None:  # else its number may be somebody else's by now
            os.killpg(process.pid, signal.SIGKILL)
        raise
    assert "Traceback" not in errors
    assert "leaked" not in errors
    assert "error: stopped by a signal in epoch" in errors.splitlines()[-1]
    assert "continue with --resume" in errors.splitlines()[-1]
    ours = [line for line in output.splitlines() if not line.startswith("[Gloo]")]  # PyTorch 2.8's
    assert ours == ["1", "stopped by a signal, True"]
    assert (run / "state.pt").exists()
    # That of what is running, and PyTorch's own.
    assert len({name for name in left if not name.startswith("torchinductor")}) == 1
