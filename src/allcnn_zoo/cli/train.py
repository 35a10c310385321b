"""``train``: weights from images, by a named recipe."""

import argparse

from ..machine import FLOAT_PRECISIONS
from .shared import (
    Commands,
    add_command,
    add_json_option,
    folder_to_write,
    one_voice,
    positive_int,
    print_json,
    say,
)


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(commands, "train", "train a network by a named recipe", _train)
    parser.add_argument(
        "--recipe",
        default="best",
        metavar="NAME",
        help="best, plain, cifar100, flagship or neon (best)",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="network to train, a name in `allcnn-zoo list` (allcnn_c)"
    )
    parser.add_argument(
        "--precision",
        choices=FLOAT_PRECISIONS,
        help="insist on it; auto: bfloat16 where it is native, else float32 (the recipe's)",
    )
    parser.add_argument(
        "--epochs", type=positive_int, metavar="N", help="passes over the images (the recipe's)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder that holds the data set's folder")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (0)")
    parser.add_argument(
        "--out",
        type=folder_to_write,
        default="run",
        metavar="RUN_DIR",
        help="directory of state, metrics and weights; several machines must share it (run)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN_DIR")
    parser.add_argument(
        "--holdout",
        type=int,
        default=0,
        metavar="N",
        help="training images to keep apart and measure on (0)",
    )
    parser.add_argument(
        "--test", action="store_true", help="measure on the test images, once, at the end"
    )
    parser.add_argument(
        "--processes", type=positive_int, metavar="K", help="how many share the work (one a core)"
    )
    add_json_option(parser)


def _train(arguments: argparse.Namespace) -> None:
    from ..training import train

    with one_voice():
        results = train(
            arguments.recipe,
            arguments.data,
            arguments.out,
            model=arguments.model,
            precision=arguments.precision,
            epochs=arguments.epochs,
            seed=arguments.seed,
            holdout=arguments.holdout,
            resume=arguments.resume,
            test=arguments.test,
            processes=arguments.processes,
        )
    if not results:  # not the first of several processes
        return
    if arguments.json:
        print_json(results)
        return
    say(f"wrote {arguments.out}/weights.safetensors and {arguments.out}/results.json")
    for name in ("held_out", "test"):
        if name in results:
            say(f"accuracy on {name.replace('_', '-')} images: {results[name]['accuracy']:.2%}")
