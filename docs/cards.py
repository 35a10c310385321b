"""The text of the model cards, from the catalogue and from results files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from markdown_tables import table

from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.weights import ASSETS, Weights

ROOT = Path(__file__).parents[1]
SEEDS = ROOT / "benchmarks" / "results"  # of benchmarks/seeds.py
MEASURED = SEEDS / "cards"

BUNDLED = """# {tag}

Made by {recipe}.
All-CNN-C, 1,369,738 parameters, {activation} ReLU after the last convolution. The weights come with
the package:

```python
import allcnn_zoo

classifier = allcnn_zoo.Classifier.from_pretrained("{tag}")
print(classifier("examples/images/frog.png"))
```

## Results

CIFAR-10's 10,000 test images, one centre view each, looked at once.

{figures}

## Class by class

Of the images of a class, how many are found (recall); of the answers with its name, how many are
right (precision); and what it is most often taken for.

{classes}

![Confusion matrix: rows are true classes, columns predicted](../pictures/{tag}_confusion.svg)

<details markdown>
<summary>The same as a table</summary>

{confusion}

</details>

## How far its probabilities can be believed

Its logits are divided by a temperature of {temperature}, {fitted}; it ships in the weights file and
`Classifier` applies it. Of the answers that claim a confidence, the share that is right:

![Reliability diagrams before and after temperature scaling](../pictures/{tag}_reliability.svg)

## Where it fails

It is wrong on {mistakes:,} of {images:,} images. {sure:,} answers claim more than 90 %, and {wrong}
of these are wrong. The ten mistakes of which it is surest:

![The ten most confident mistakes: predicted and true class](../pictures/{tag}_mistakes.svg)

## Training

`allcnn-zoo train --recipe {name} --epochs {epochs} --seed {seed}` on {training_images:,} images:
{minutes:.0f} minutes of training on {machine}, commit `{commit}`. Batch normalisation was folded
into the convolutions; the logits moved by {fold_error:.1e} of the largest.

{use}
"""

USE = """## Use and limits

For research, teaching and as a small, honest baseline on 32x32 images of CIFAR-10's ten classes.
It knows nothing else: any other picture gets one of the ten names. {calibration} Not for decisions
about people.

Images must go through the matching preprocessing (`model.preprocess`, or `Classifier`, which does
it): contrast normalisation and ZCA whitening.

## Licence and data

Weights: {licence}. Data: CIFAR-10, Krizhevsky 2009, a labelled subset of 80 million tiny images,
whose own collection was withdrawn for offensive content; the ten classes here are vehicles and
animals. To cite: {citation}."""

PUBLISHED = """# {tag}

The weights that Nervana published with its ModelZoo, the ones that `pretrained=True` prefers:
All-CNN-C as neon trained it, with a ReLU after the last convolution.

```python
import allcnn_zoo

record = allcnn_zoo.get_weights("{tag}")
model = allcnn_zoo.create_model(record.name, pretrained=True)  # exactly these, or an error
print(model.weights.provenance)
```

## What is known

{facts}

The publisher never gave a digest. The file is checked for its structure, its digest is recorded
on first use and enforced ever after: [how files arrive](../hub.md). It is a pickle, of which
nothing is executed: [security](../security.md). What the conversion does to the weights, and how
close it is to neon: [how faithful to neon](../faithful.md).

## What is not known

Everything beyond that figure: class by class, calibration, mistakes. No temperature comes with it.
With CIFAR-10 and the file at hand, one command measures it:

```sh
allcnn-zoo eval --weights {tag}
```

{use}
"""


def card(weights: Weights) -> str:
    """The model card of published weights."""
    return _bundled(weights) if weights.bundled else _published(weights)


def results_of(weights: Weights) -> dict[str, Any]:
    """The results file of the run that made bundled weights."""
    results: dict[str, Any] = json.loads((ASSETS / f"{weights.tag}.json").read_text())
    return results


def _published(weights: Weights) -> str:
    facts = [
        ["top-1 accuracy", f"{weights.metrics['top1']} % ({weights.metrics['measured_by']})"],
        ["trained by", weights.recipe],
        ["published at", f"<{weights.url}>"],
        ["preprocessing", "contrast normalisation and ZCA whitening"],
        ["licence", weights.licence],
    ]
    use = USE.format(
        calibration="Its probabilities are not calibrated.",
        licence=weights.licence,
        citation=weights.citation,
    )
    return PUBLISHED.format(tag=weights.tag, facts=table(["", ""], facts), use=use)


def _bundled(weights: Weights) -> str:
    results, measured = results_of(weights), _measured(weights)
    recipe, test = results["recipe"], results["test"]
    use = USE.format(
        calibration="Probabilities are calibrated on CIFAR-10 and on nothing else.",
        licence=weights.licence,
        citation=weights.citation,
    )
    return BUNDLED.format(
        tag=weights.tag,
        recipe=weights.recipe,
        activation="with a" if recipe["architecture"]["final_relu"] else "without a",
        figures=_figures(results),
        classes=_classes(test["confusion"]),
        confusion=_confusion(test["confusion"]),
        temperature=results["temperature"],
        fitted=_fitted(results),
        images=measured["images"],
        mistakes=measured["mistakes"],
        sure=measured["answers_above_90_percent"],
        wrong=measured["mistakes_above_90_percent"],
        name=recipe["name"],
        epochs=recipe["epochs"],
        seed=results["seed"],
        training_images=results["training_images"],
        minutes=results["training_seconds"] / 60,
        machine="{cores} cores of {cpu}".format(**results["machine"]),
        commit=results["commit"][:7],
        fold_error=results["fold_error"],
        use=use,
    )


def _measured(weights: Weights) -> dict[str, Any]:
    """What `make figures` measured of exactly these weights."""
    assert weights.bundled is not None
    path = MEASURED / f"{weights.tag}.json"
    digest = hashlib.sha256((ASSETS / weights.bundled).read_bytes()).hexdigest()
    if path.exists():
        measured: dict[str, Any] = json.loads(path.read_text())
        if measured["weights_sha256"] == digest:
            return measured
    raise SystemExit(f"{path.relative_to(ROOT)} is not of {weights.bundled}: run `make figures`")


def _figures(results: dict[str, Any]) -> str:
    test = results["test"]
    rows = [
        ["top-1 accuracy", f"{test['accuracy']:.2%}"],
        ["averaged with the mirror image", f"{test['flip_averaged_accuracy']:.2%}"],
        [
            "negative log-likelihood",
            f"{test['nll']:.4f} ({test['nll_before_temperature']:.4f} before temperature scaling)",
        ],
        [
            "expected calibration error, 15 bins",
            f"{test['ece']:.2%} ({test['ece_before_temperature']:.2%} before)",
        ],
    ]
    rows += _of_several_seeds(results["recipe"])
    if "held_out" in results:
        images = f"accuracy on {results['held_out_images']:,} training images held out"
        rows.append([images, f"{results['held_out']['accuracy']:.2%}"])
    return table(["", ""], rows)


def _of_several_seeds(recipe: dict[str, Any]) -> list[list[str]]:
    """What runs of the same recipe and length reached on the test images, if there were several."""
    path = SEEDS / f"seeds_{recipe['name']}.json"
    report = json.loads(path.read_text()) if path.exists() else {"runs": []}
    if not all(run["judged_on"] == "test" for run in report["runs"]) or not report["runs"]:
        return []
    spread = f"{report['mean']:.2%}, standard deviation {100 * report['standard_deviation']:.2f}"
    return [[f"top-1 accuracy, mean of {len(report['runs'])} seeds", spread]]


def _fitted(results: dict[str, Any]) -> str:
    """Where the temperature comes from."""
    if "held_out" in results:
        return f"fitted on {results['held_out_images']:,} training images that were held out"
    return "fitted by an earlier run on images that it held out"


def _classes(confusion: list[list[int]]) -> str:
    rows = []
    for index, (name, counts) in enumerate(zip(CIFAR10_CLASSES, confusion, strict=True)):
        found = counts[index]
        answers = sum(row[index] for row in confusion)
        others = [(count, other) for other, count in enumerate(counts) if other != index]
        most, rival = max(others)
        rival_name = f"{CIFAR10_CLASSES[rival]} ({most})"
        rows.append([name, f"{found / sum(counts):.1%}", f"{found / answers:.1%}", rival_name])
    return table(["class", "recall", "precision", "most often taken for"], rows)


def _confusion(confusion: list[list[int]]) -> str:
    header = ["", *(name[:5] for name in CIFAR10_CLASSES)]
    rows = [[n, *map(str, row)] for n, row in zip(CIFAR10_CLASSES, confusion, strict=True)]
    return table(header, rows)
