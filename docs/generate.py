"""Writes every figure in README and docs that comes from a results file.

python docs/generate.py            # write
python docs/generate.py --check    # fail if something is out of date
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allcnn_zoo.catalogue import CATALOGUE, CIFAR10_CLASSES, Weights

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "allcnn_zoo" / "assets"

CARD = """# {tag}

{recipe}

All-CNN-C, 1,369,738 parameters, {activation} ReLU after the last convolution. The weights come with
the package: `allcnn_zoo.allcnn_c(weights="{tag}")`.

## Results

CIFAR-10's 10,000 test images, one centre view each, looked at once.

| | |
|---|---|
| top-1 accuracy | {accuracy:.2%} |
| averaged with the mirror image | {flipped:.2%} |
| negative log-likelihood | {nll:.4f} ({nll_before:.4f} before temperature scaling) |
| expected calibration error, 15 bins | {ece:.2%} ({ece_before:.2%} before) |
| temperature | {temperature} |
| accuracy on {held_out_images:,} training images held out | {held_out:.2%} |

| class | accuracy |
|---|---|
{per_class}

Confusion: rows are true classes, columns predicted ones.

{confusion}

## Training

`allcnn-zoo train --recipe {name} --epochs {epochs} --seed {seed}` on {training_images:,} images:
{minutes:.0f} minutes of training on {machine}, commit `{commit}`. Batch normalisation was folded
into the convolutions; the logits moved by {fold_error:.1e} of the largest.

## Use and limits

For research, teaching and as a small, honest baseline on 32x32 images of CIFAR-10's ten classes.
It knows nothing else: any other picture gets one of the ten names. Probabilities are calibrated on
CIFAR-10 and on nothing else. Not for decisions about people.

Images must go through the matching preprocessing (`model.preprocess`, or `Classifier`, which does
it): contrast normalisation and ZCA whitening.

Weights: Apache-2.0. Data: CIFAR-10, Krizhevsky 2009, a labelled subset of 80 million tiny images,
whose own collection was withdrawn for offensive content; the ten classes here are vehicles and
animals.
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def results_of(weights: Weights) -> dict[str, Any]:
    """The results file of the run that made these weights."""
    results: dict[str, Any] = json.loads((ASSETS / f"{weights.tag}.json").read_text())
    return results


def card(weights: Weights) -> str:
    """The model card of bundled weights."""
    results = results_of(weights)
    test, recipe = results["test"], results["recipe"]
    names = [name[:5] for name in CIFAR10_CLASSES]
    confusion = [
        [name, *map(str, row)] for name, row in zip(CIFAR10_CLASSES, test["confusion"], strict=True)
    ]
    return CARD.format(
        tag=weights.tag,
        recipe=f"Made by {weights.recipe}.",
        activation="with a" if recipe["architecture"]["final_relu"] else "without a",
        accuracy=test["accuracy"],
        flipped=test["flip_averaged_accuracy"],
        nll=test["nll"],
        nll_before=test["nll_before_temperature"],
        ece=test["ece"],
        ece_before=test["ece_before_temperature"],
        temperature=results["temperature"],
        held_out_images=results["held_out_images"],
        held_out=results["held_out"]["accuracy"],
        per_class="\n".join(
            f"| {name} | {value:.1%} |" for name, value in test["per_class"].items()
        ),
        confusion=table(["", *names], confusion),
        name=recipe["name"],
        epochs=recipe["epochs"],
        seed=results["seed"],
        training_images=results["training_images"],
        minutes=results["training_seconds"] / 60,
        machine="{cores} cores of {cpu}".format(**results["machine"]),
        commit=results["commit"][:7],
        fold_error=results["fold_error"],
    )


def weights_table() -> str:
    """The README's table of weights."""
    rows = [
        [
            f"`{weights.tag}`",
            f"{weights.metrics['top1']} %",
            f"[in the package](docs/models/{weights.tag}.md)"
            if weights.bundled
            else "neon's, from S3",
            weights.recipe,
        ]
        for weights in CATALOGUE
    ]
    return table(["tag", "top-1", "where", "how trained"], rows)


ELSEWHERE = [  # top-1 on CIFAR-10's test images, All-CNN-C, one view
    ["Springenberg et al. 2014, no augmentation", "90.92 %", "the paper, table 3"],
    ["Springenberg et al. 2014, flips and shifts", "92.75 %", "the paper, table 3"],
    ["Nervana's published weights, no augmentation", "89.5 %", "their ModelZoo readme"],
    ["a Keras re-implementation, augmented", "90.88 %", "its readme"],
    ["a Caffe re-implementation, GCN + ZCA", "90.25 %", "its readme"],
]


def training_table() -> str:
    """The training page's table: our runs beside what others report."""
    rows = []
    for weights in CATALOGUE:
        if weights.bundled:
            results = results_of(weights)
            how = f"`--recipe {results['recipe']['name']} --epochs {results['recipe']['epochs']}"
            minutes = f"{results['training_seconds'] / 60:.0f} minutes on a shared machine of"
            cores = f"{results['machine']['cores']} cores"
            name = f"[`{weights.tag}`](models/{weights.tag}.md), {how} --seed {results['seed']}`"
            rows.append([name, f"{weights.metrics['top1']} %", f"{minutes} {cores}"])
    return table(["", "top-1", ""], rows + ELSEWHERE)


def costs_table() -> str:
    """The README's table of what safety costs, from the benchmarks' results."""
    folder = ROOT / "benchmarks" / "results"
    load = json.loads((folder / "cached_load.json").read_text())
    convert = json.loads((folder / "convert.json").read_text())
    beside, built = list(load["ratio"].values())[::-1]
    rows = [
        [
            "cached weights, digest checked",
            "building the network and loading them",
            f"{beside:.2f}",
        ],
        ["the same", "loading them into a network that is there already", f"{built:.1f}"],
        [
            "converting neon's file",
            "`pickle.load` and `save_file`",
            f"{convert['time_ratio']['wall']:.1f}",
        ],
    ]
    return table(["what", "beside", "time, as a ratio"], rows)


def documents() -> Iterator[tuple[Path, str]]:
    """Each generated file with its content."""
    for weights in CATALOGUE:
        if weights.bundled:
            yield ROOT / "docs" / "models" / f"{weights.tag}.md", card(weights)
    readme, text = fill(ROOT / "README.md", "weights", weights_table())
    yield readme, filled(text, "costs", costs_table())
    yield fill(ROOT / "docs" / "train.md", "training", training_table())


def fill(path: Path, name: str, content: str) -> tuple[Path, str]:
    """The file with `content` between its two markers."""
    return path, filled(path.read_text(), name, content)


def filled(text: str, name: str, content: str) -> str:
    """The text with `content` between two markers."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{opening}\n\n{content}\n\n{closing}"
    return re.sub(f"{opening}.*?{closing}", lambda _: block, text, flags=re.DOTALL)


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in documents() if not _has(path, text)]
    for path, text in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: python docs/generate.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int(check and bool(stale))


def _has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
