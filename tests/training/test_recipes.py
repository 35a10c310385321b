"""Recipes are frozen: a change of any number is a new recipe, and this file says so."""

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from allcnn_zoo.architectures import Architecture
from allcnn_zoo.errors import TrainingError, UnknownNameError
from allcnn_zoo.training import RECIPES, get_recipe

FROZEN = {
    "best": "3a091bf9e9497115",
    "plain": "33e9bcf55e4443b8",
    "neon": "dd4922efd113d003",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_do_not_change(name: str) -> None:
    text = json.dumps(dataclasses.asdict(RECIPES[name]), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FROZEN[name], text


def test_neon_is_the_original() -> None:
    neon = RECIPES["neon"]
    assert dataclasses.asdict(neon.method) == {
        "init_scale": 0.05,
        "lr": 0.05,
        "momentum": 0.9,
        "decay": 0.001,
        "steps": (200, 250, 300),
        "change": 0.1,
    }
    assert (neon.epochs, neon.batch_size, neon.dropout) == (350, 128, (0.2, 0.5))
    assert (neon.order, neon.flips, neon.shift) == ("wrapping", "none", 0)
    assert (neon.architecture.num_classes, neon.architecture.final_relu) == (16, True)
    assert neon.precision == "float32"


def test_plain_has_no_augmentation() -> None:
    plain = RECIPES["plain"]
    assert (plain.flips, plain.shift, plain.cutout) == ("none", 0, 0)
    assert plain.resolutions == ((0.0, 32),)


def test_recipes_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["best"].epochs = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": Architecture(num_classes=16)}, "num_classes=16: CIFAR-10 has 10"),
        ({"architecture": Architecture(num_classes=9)}, "num_classes=9: CIFAR-10 has 10"),
        ({"batch_size": 0}, "batch_size=0, ghost_batch=64: at least 1 of each"),
        ({"ghost_batch": 0}, "batch_size=512, ghost_batch=0: at least 1"),
        ({"batch_size": 100}, "batch_size=100 is not a multiple of ghost_batch=64"),
        ({"epochs": 0}, "epochs=0: at least 1"),
        ({"cutout": 33}, r"cutout=33: 0\.\.\.32 pixels"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(RECIPES["best"], **changes)


def test_an_unknown_name_is_answered_with_a_guess() -> None:
    message = r"no recipe is called 'bset'; did you mean 'best'\?"
    with pytest.raises(UnknownNameError, match=message):
        get_recipe("bset")
