"""The loop does with the images, the learner and the figures what the recipe says."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allcnn_zoo.cifar import CIFAR10, CIFAR100
from allcnn_zoo.classifier import Classifier
from allcnn_zoo.distributed import World
from allcnn_zoo.errors import TrainingError
from allcnn_zoo.model import AllCNN
from allcnn_zoo.training import RECIPES, Recipe, augmentation, loop
from allcnn_zoo.training.loop import Job, Trainer, run
from allcnn_zoo.zoo import load

from .conftest import TINY_MODERN

STILL = {"shift": 0, "flips": "none", "cutout": 0, "resolutions": ((0.0, 32),)}


@pytest.fixture
def views(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What a network sees by a recipe: epochs of parts, whitening left out, and their labels."""
    monkeypatch.setattr(augmentation, "Whitening", lambda *_: torch.Tensor.float)

    def see(**changes: Any) -> tuple[list[list[torch.Tensor]], torch.Tensor]:
        recipe = dataclasses.replace(TINY_MODERN, **{**STILL, **changes})
        trainer = Trainer(World(), make_job(recipe, holdout=0))
        seen: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []

        def remember(images: torch.Tensor, targets: torch.Tensor, share: float) -> Any:
            assert share == 0.5
            seen.append(images.clone())
            labels.append(targets)
            return torch.zeros(()), torch.zeros(())

        monkeypatch.setattr(trainer.learner, "accumulate", remember)
        monkeypatch.setattr(trainer.learner, "step", lambda: None)
        trainer.fit()
        trainer.directory.release()
        return [seen[start : start + 12] for start in range(0, len(seen), 12)], torch.cat(labels)

    return see


def rows(images: Any) -> list[bytes]:
    return [np.ascontiguousarray(image, np.float32).tobytes() for image in images]


def test_images_and_their_mirror_images_are_shown_as_the_recipe_says(
    views: Any, small_cifar10: Path
) -> None:
    split = CIFAR10(small_cifar10).train
    straight, mirrored = rows(split.images), rows(split.images[..., ::-1])
    label_of = dict(zip(straight, split.labels.tolist(), strict=True))
    epochs, labels = views()
    shown = [rows(torch.cat(epoch)) for epoch in epochs]
    assert all(len(set(each)) == 96 and set(each) <= label_of.keys() for each in shown)
    assert labels.tolist() == [label_of[image] for each in shown for image in each]
    epochs, _ = views(flips="alternating")
    for epoch in epochs:
        shown = set(rows(torch.cat(epoch)))
        assert shown <= {*straight, *mirrored}
        assert 20 < len(shown & set(mirrored)) < 76


def test_shifts_squares_and_crops_reach_the_network(views: Any, small_cifar10: Path) -> None:
    inner = set(rows(CIFAR10(small_cifar10).train.images[:, :, 14:18, 14:18]))
    epochs, _ = views(shift=2)
    moved = 0
    for image in torch.cat(epochs[0]):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if rows(image[None, :, 14 + down : 18 + down, 14 + right : 18 + right])[0] in inner
        ]
        assert len(places) == 1
        moved += places != [(0, 0)]
    assert moved > 70
    epochs, _ = views(cutout=6, resolutions=((0.0, 20), (0.5, 32)))
    assert {tuple(part.shape) for part in epochs[0]} == {(8, 3, 20, 20)}
    assert {tuple(part.shape) for part in epochs[2]} == {(8, 3, 32, 32)}
    for image in torch.cat(epochs[2]):
        blank = (image == 0).all(0)
        assert blank.sum() >= 36
        top, left = (int(axis.nonzero()[0]) for axis in (blank.sum(1) >= 6, blank.sum(0) >= 6))
        assert blank[top : top + 6, left : left + 6].all()


@pytest.fixture(scope="module")
def trainer(recipe: Recipe, make_job: Callable[..., Job]) -> Trainer:
    """A trainer at the end of its last epoch, which has not finished."""
    trainer = Trainer(World(), make_job(recipe, test=True))
    trainer.fit()
    trainer.directory.release()
    return trainer


def test_the_learning_rate_of_a_run_falls_to_almost_nothing(trainer: Trainer) -> None:
    rates = [line["lr"] for line in trainer.directory.read_metrics()]
    # Five steps an epoch, three epochs: the rate of the last step of each.
    modern = [0.1 * (1 - step / 15) for step in (4, 9, 14)]
    is_modern = trainer.recipe.name == TINY_MODERN.name
    assert rates == pytest.approx(modern if is_modern else [0.05, 0.005, 0.0005])


def test_a_fold_that_changes_the_logits_is_refused(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer.learner.plain

    def spoiled() -> AllCNN:
        network = plain()
        with torch.no_grad():
            network.features.conv3.weight *= 1.001
        return network

    monkeypatch.setattr(trainer.learner, "plain", spoiled)
    with pytest.raises(TrainingError, match="the plain network's logits are off by"):
        trainer.finish()
    assert not trainer.directory.weights.exists()


def test_weights_load_and_compute_what_was_measured(trainer: Trainer) -> None:
    results = trainer.finish()
    assert results["fold_error"] < 1e-5
    model = load(trainer.directory.weights)
    assert model.architecture.num_classes == 10
    with torch.no_grad(), trainer._measured():
        images = trainer.whiten(trainer.images[:32])
        # The temperature is in the last convolution already.
        expected = trainer.learner.logits(images)[:, :10] / results["temperature"]
        torch.testing.assert_close(
            model(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )
    test = trainer.dataset.test
    for name, images, labels in (
        ("test", test.images, test.labels),
        ("held_out", *(tensor.numpy() for tensor in trainer.held_out)),
    ):
        probabilities = Classifier(model).predict_proba(images)
        figures = results[name]
        assert json.loads(json.dumps(figures)) == model.weights.metrics[name]
        assert figures["accuracy"] == (probabilities.argmax(1) == labels).mean()
        likelihoods = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        assert figures["nll"] == pytest.approx(-np.log(likelihoods).mean(), abs=1e-4)


def test_another_data_set_network_and_precision_are_in_the_weights(
    make_job: Callable[..., Job], small_cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hundred = dataclasses.replace(TINY_MODERN.architecture, num_classes=100)
    named = dataclasses.replace(
        TINY_MODERN, name="cifar100", architecture=hundred, dataset="cifar100"
    )
    monkeypatch.setitem(RECIPES, "cifar100", named)
    recipe = dataclasses.replace(named.for_model("base_a"), epochs=1, precision="bfloat16")
    job = make_job(recipe, test=True)
    results = run(World(), job)
    model = load(job.out / "weights.safetensors")
    assert model.architecture == recipe.architecture
    assert (model.weights.tag, model.weights.classes) == ("cifar100", CIFAR100.classes)
    test = CIFAR100(small_cifar10).test
    right = Classifier(model).predict_proba(test.images).argmax(1) == test.labels
    assert results["test"]["accuracy"] == right.mean()
    provenance = model.weights.provenance
    assert provenance["command"] == (
        "allcnn-zoo train --recipe cifar100 --model base_a --epochs 1 --precision bfloat16"
        " --seed 3 --holdout 20 --test"
    )
    assert (provenance["recipe"]["dataset"], provenance["seed"]) == ("cifar100", 3)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_it_is_native_and_stays_what_it_was(
    native: bool,
    make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    precision, other = ("bfloat16", "float32")[:: 1 if native else -1]
    monkeypatch.setattr(loop, "has_fast_bfloat16", lambda _: native)
    monkeypatch.setattr(Trainer, "finish", lambda self: self.facts)
    auto = dataclasses.replace(TINY_MODERN, precision="auto", epochs=1)
    job = make_job(auto)
    assert run(World(), job)["recipe"]["precision"] == precision
    assert f", {precision}," in capsys.readouterr().err.splitlines()[0]
    resumed = dataclasses.replace(job, resume=True)
    monkeypatch.setattr(loop, "has_fast_bfloat16", lambda _: not native)
    assert run(World(), resumed)["recipe"]["precision"] == precision
    insisting = dataclasses.replace(resumed, recipe=dataclasses.replace(auto, precision=other))
    message = f"was started with recipe.precision='{precision}', not '{other}'"
    with pytest.raises(TrainingError, match=re.escape(message)):
        run(World(), insisting)


def test_the_callers_random_numbers_and_threads_are_left_alone(
    recipe: Recipe, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "usable_cores", lambda: 3)

    def draw() -> tuple[torch.Tensor, float]:
        return torch.rand(1), np.random.random()  # noqa: NPY002

    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    run(World(), make_job(dataclasses.replace(recipe, epochs=1)))
    assert draw() == expected
    assert torch.get_num_threads() == 1
