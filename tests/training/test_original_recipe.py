"""The `neon` recipe follows what neon itself computed, through the drop of the learning rate."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .replay import Recorder, force_gates, recipe_of, replay

FIXTURE = Path(__file__).parent / "fixtures" / "neon_trajectory.npz"
LOSS_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(FIXTURE) as file:
        return dict(file)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: dict[str, Any]) -> Any:
    def make() -> Recorder:
        images = recorded["x_q"] * recorded["x_scale"]
        recipe = recipe_of(recorded, (8, 12))
        seed = int(recorded["rng_seed"])
        return replay(monkeypatch, tmp_path, recipe, images, recorded["y"], seed)

    return make


def loss_errors(trainer: Recorder, recorded: dict[str, Any]) -> np.ndarray:
    return np.abs(np.array(trainer.losses) / recorded["cost"] - 1)


def largest_error(found: torch.Tensor, expected: np.ndarray) -> float:
    """Relative to the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_follows_neon_through_the_drop_of_the_learning_rate(
    start: Any, recorded: dict[str, Any]
) -> None:
    # Initial weights and masks come from the seed alone: the random stream is neon's too.
    trainer = start()
    trainer.fit()
    assert loss_errors(trainer, recorded).max() < LOSS_TOLERANCE
    for index, iteration in enumerate(recorded["state_iters"]):
        assert largest_error(trainer.weights[iteration - 1], recorded["w"][index]) < (
            WEIGHT_TOLERANCE
        )
        assert largest_error(trainer.velocities[iteration - 1], recorded["v"][index]) < 1e-3


def test_plain_sgd_leaves_neon_after_the_drop(start: Any, recorded: dict[str, Any]) -> None:
    trainer = start()
    method = trainer.learner.method
    sgd = torch.optim.SGD(
        trainer.learner.parameters, method.lr, method.momentum, weight_decay=method.decay
    )
    sgd.param_groups[0]["peak_lr"] = method.lr
    trainer.learner.optimizers = [sgd]
    trainer.fit()
    errors = loss_errors(trainer, recorded)
    # The step after the drop is the first wrong one, and the next loss the first to show it.
    assert errors[:11].max() < LOSS_TOLERANCE
    assert errors[11:].min() > 100 * LOSS_TOLERANCE
    assert errors[-1] > 0.01


@pytest.mark.parametrize("width", ["narrow", "full"])
def test_follows_recorded_states(
    width: str, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shared / "neon" / "trajectory"
    recorded = dict(np.load(folder / f"{'tiny' if width == 'narrow' else 'full'}.npz"))
    inputs = np.load(folder / "tiny_inputs.npz") if width == "narrow" else recorded
    recipe = recipe_of(recorded, (8, 12) if width == "narrow" else (96, 192))
    seed = int(recorded["rng_seed"])
    trainer = replay(monkeypatch, tmp_path, recipe, inputs["x"], inputs["y"], seed)
    first = flat(trainer).numpy()
    force_gates(trainer, recorded["near_zero"])
    trainer.fit()
    assert loss_errors(trainer, recorded).max() < LOSS_TOLERANCE
    if width == "narrow":
        assert np.array_equal(first, recorded["w0"])
        for iteration in range(20):
            assert largest_error(trainer.weights[iteration], recorded["w"][iteration]) < 2e-6
            assert largest_error(trainer.velocities[iteration], recorded["v"][iteration]) < 2e-5
        return
    assert hashlib.sha256(first.tobytes()).hexdigest() == str(recorded["w0_sha256"])
    for iteration in (1, 3):
        weights, velocities = trainer.weights[iteration - 1], trainer.velocities[iteration - 1]
        assert largest_error(sample(weights, trainer), recorded[f"w{iteration}_s"]) < 1e-6
        assert largest_error(sample(velocities, trainer), recorded[f"v{iteration}_s"]) < 2e-5


def flat(trainer: Recorder) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.learner.parameters])


def sample(vector: torch.Tensor, trainer: Recorder) -> torch.Tensor:
    """All of the first and the last kernel, and every fifth element of those between."""
    kernels = vector.split([p.numel() for p in trainer.learner.parameters])
    return torch.cat([kernels[0], *(kernel[::5] for kernel in kernels[1:-1]), kernels[-1]])
