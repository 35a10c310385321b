"""What the recipes promise, and which numbers are refused."""

import dataclasses
import json
from typing import Any

import pytest

from allcnn_zoo import checkpoint, list_weights
from allcnn_zoo.architectures import CIFAR10_CLASSES, CIFAR100_CLASSES, Architecture
from allcnn_zoo.errors import TrainingError, UnknownNameError
from allcnn_zoo.training import RECIPES, get_recipe
from allcnn_zoo.weights import ASSETS

BEST, PLAIN, NEON = (RECIPES[name] for name in ("best", "plain", "neon"))


def test_neon_is_the_original() -> None:
    assert dataclasses.astuple(NEON.method) == (0.05, 0.05, 0.9, 0.001, (200, 250, 300), 0.1)
    assert (NEON.epochs, NEON.batch_size, NEON.dropout) == (350, 128, (0.2, 0.5))
    assert (NEON.order, NEON.flips, NEON.shift) == ("wrapping", "none", 0)
    assert (NEON.architecture.num_classes, NEON.architecture.final_relu) == (16, True)
    assert NEON.label_smoothing == 0.0
    # The precision of the others is the machine's.
    assert {name for name, recipe in RECIPES.items() if recipe.precision != "auto"} == {"neon"}


def test_plain_has_no_augmentation_and_is_what_the_bundled_weights_say() -> None:
    assert (PLAIN.flips, PLAIN.shift, PLAIN.cutout) == ("none", 0, 0)
    assert PLAIN.resolutions == ((0.0, 32),)
    assert (PLAIN.epochs, PLAIN.dropout, PLAIN.label_smoothing) == (15, (0.1, 0.35), 0.1)
    assert (PLAIN.batch_size, PLAIN.ghost_batch) == (512, 64)


def test_bundled_weights_were_trained_by_the_recipe_that_their_command_names() -> None:
    for weights in list_weights():
        if not weights.bundled:
            continue
        provenance = checkpoint.read_metadata(ASSETS / weights.bundled).provenance
        used, name = provenance["recipe"], provenance["recipe"]["name"]
        recipe = dataclasses.asdict(get_recipe(name).for_model(weights.architecture))
        assert f"--recipe {name}" in provenance["command"]
        for key in recipe.keys() & used.keys() - {"summary", "precision", "temperature"}:
            assert json.loads(json.dumps(recipe[key])) == used[key], (weights.name, key)


def test_best_and_what_derives_from_it_differ_in_what_they_say_only() -> None:
    def changed(name: str) -> dict[str, Any]:
        mine, best = (dataclasses.asdict(recipe) for recipe in (RECIPES[name], BEST))
        return {key: value for key, value in mine.items() if value != best[key]}

    assert (BEST.epochs, BEST.shift, BEST.flips, BEST.cutout) == (135, 4, "alternating", 12)
    assert BEST.resolutions == ((0.0, 20), (0.2, 24), (0.5, 28), (0.8, 32))
    assert changed("cifar100").keys() == {
        "name", "summary", "architecture", "dataset", "method", "epochs", "cutout", "temperature",
    }  # fmt: skip


def test_classes_and_tags_follow_the_data_set() -> None:
    assert (PLAIN.tag, PLAIN.classes) == ("cifar10_plain", CIFAR10_CLASSES)
    hundred = RECIPES["cifar100"]
    assert (hundred.tag, hundred.classes) == ("cifar100", CIFAR100_CLASSES)
    assert hundred.architecture.count_parameters() == 1_387_108
    architecture = dataclasses.replace(PLAIN.architecture, num_classes=100)
    plain = dataclasses.replace(PLAIN, dataset="cifar100", architecture=architecture)
    assert plain.tag == "cifar100_plain"


def test_the_command_of_a_recipe_makes_it_again() -> None:
    assert PLAIN.command() == "allcnn-zoo train --recipe plain"
    base = dataclasses.replace(PLAIN.for_model("base_a"), precision="float32", epochs=3)
    assert base.architecture == dataclasses.replace(PLAIN.architecture, name="base_a")
    assert base.command(7, 20, test=True) == (
        "allcnn-zoo train --recipe plain --model base_a --epochs 3 --precision float32"
        " --seed 7 --holdout 20 --test"
    )
    assert dataclasses.replace(base, shift=1).command() is None
    assert dataclasses.replace(base, name="mine").command() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": Architecture(num_classes=16)}, "num_classes=16: cifar10 has 10"),
        ({"architecture": Architecture(num_classes=9)}, "num_classes=9: cifar10 has 10"),
        ({"dataset": "cifar100"}, "num_classes=10: cifar100 has 100"),
        ({"batch_size": 0}, "batch_size=0, ghost_batch=64: at least 1 of each"),
        ({"ghost_batch": 0}, "batch_size=512, ghost_batch=0: at least 1"),
        ({"batch_size": 100}, "batch_size=100, ghost_batch=64: .* must be a multiple"),
        ({"epochs": 0}, "epochs=0: at least 1"),
        ({"cutout": 33}, r"cutout=33: 0\.\.\.32 pixels"),
        ({"temperature": 0.0}, "temperature=0.0: more than 0"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(BEST, **changes)


def test_an_unknown_name_is_answered_with_a_guess() -> None:
    for mistake, message in (
        (lambda: get_recipe("bset"), r"no recipe is called 'bset'; did you mean 'best'\?"),
        (lambda: BEST.for_model("base_d"), "no network is called 'base_d'; did you mean"),
        (lambda: dataclasses.replace(BEST, precision="float16"), "no precision is called"),
        (lambda: dataclasses.replace(BEST, dataset="cifar11"), "no data set is called"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            mistake()
