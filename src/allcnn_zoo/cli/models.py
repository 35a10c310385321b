"""``list``, ``predict`` and ``eval``: networks, their predictions, their accuracy."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from .shared import (
    Commands,
    add_command,
    add_json_option,
    add_model_options,
    describe_weights,
    one_voice,
    open_classifier,
    positive_int,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from ..cifar import Split
    from ..classifier import Classifier


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(commands, "list", "list networks and published weights", _list)
    parser.add_argument("pattern", nargs="?", default="*", help="glob over network names (*)")
    add_json_option(parser)

    parser = add_command(commands, "predict", "classify images", _predict)
    parser.add_argument("images", nargs="+", metavar="IMG", help="image files of any size")
    add_model_options(parser)
    parser.add_argument(
        "--top-k", type=positive_int, default=3, metavar="K", help="classes to show (3)"
    )
    add_json_option(parser)

    parser = add_command(commands, "eval", "measure accuracy on CIFAR-10's test images", _eval)
    add_model_options(parser)
    parser.add_argument("--data", metavar="DIR", help="folder that holds cifar-10-batches-py")
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="images to use (test)"
    )
    add_json_option(parser)


def _list(arguments: argparse.Namespace) -> None:
    from ..architectures import Architecture, list_models
    from ..weights import list_weights

    names = list_models(arguments.pattern)
    records = {name: list_weights(name) for name in names}
    if arguments.json:
        print_json({name: [dataclasses.asdict(w) for w in records[name]] for name in names})
        return
    rows = []
    for name in names:
        parameters = f"{Architecture(name).count_parameters():,}"
        weights = ", ".join(
            f"{record.tag} ({record.metrics['top1']} %)" for record in records[name]
        )
        rows.append((name, parameters.rjust(len("parameters")), weights or "-"))
    print_table(("network", "parameters", "published weights (top-1)"), rows)


def _predict(arguments: argparse.Namespace) -> None:
    classifier = open_classifier(arguments)
    predictions = classifier(arguments.images, top_k=arguments.top_k)
    if arguments.json:
        images = [
            {"image": image, **dataclasses.asdict(prediction)}
            for image, prediction in zip(arguments.images, predictions, strict=True)
        ]
        print_json({"weights": describe_weights(classifier.weights), "images": images})
        return
    say(f"weights: {classifier.weights.tag}")
    rows = [
        (image, *(f"{label} {probability:6.1%}" for label, probability in prediction.top))
        for image, prediction in zip(arguments.images, predictions, strict=True)
    ]
    ranks = range(1, len(rows[0]))
    print_table(("image", *(f"#{rank}" for rank in ranks)), rows)


def _eval(arguments: argparse.Namespace) -> None:
    from ..distributed import launched
    from ..evaluation import evaluate

    with one_voice(), launched() as world:
        split, classifier = world.agree(lambda: _open(arguments))
        result = evaluate(classifier, split.images, split.labels, progress=True, world=world)
    if not world.is_first:
        return
    if arguments.json:
        described = describe_weights(classifier.weights)
        print_json({"weights": described, "split": arguments.split, **result.to_json()})
        return
    say(f"weights     {classifier.weights.tag}")
    say(f"images      {result.images} ({arguments.split})")
    say(f"accuracy    {result.accuracy:.2%}   error {result.error:.2%}")
    say(f"NLL         {result.nll:.4f}   ECE {result.ece:.2%}")
    say(f"time        {result.seconds:.1f} s   {result.images / result.seconds:.0f} images/s\n")
    print_table(
        ("class", "accuracy"), [(name, f"{value:7.2%}") for name, value in result.per_class.items()]
    )


def _open(arguments: argparse.Namespace) -> "tuple[Split, Classifier]":
    """Open the images to evaluate on, and the classifier."""
    from ..cifar import CIFAR10

    data = CIFAR10(arguments.data)
    split = data.test if arguments.split == "test" else data.train
    return split, open_classifier(arguments)
