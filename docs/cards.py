"""The model cards: one template for every set of weights, from records, headers and results."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from tables import circumstances, header_of, measured_of, percent, table
from torch.utils.flop_counter import FlopCounterMode

import allcnn_zoo
from allcnn_zoo import Weights

CARD = """# {name}

{about}

```python
import allcnn_zoo

{code}
```

{facts}

{body}

## Use and limits

For research, teaching, and as a small baseline on 32×32 images of {dataset}'s {count} classes.
Any other picture also gets one of these labels. {calibrated}
Not for decisions about people.

Images must go through the matching preprocessing: `Classifier` applies it, and
`model.preprocess` is the module.

## License and data

Weights: {license}. Data: {dataset}, Krizhevsky 2009, a labeled subset of 80 Million Tiny Images, a
collection that its authors withdrew because of offensive content. To cite: {citation}.
"""

MEASURED = """## Class by class

{classes}

{calibration}## Reproduce it

```sh
{command}
```

{trained}"""

CALIBRATION = """## Calibration

Probabilities are calibrated if 90 % of the answers with a confidence of 90 % are right. Of all test
images, {right} are classified correctly. {sure:,} answers have a confidence above 90 %; {wrong:,}
of these are wrong.

![Accuracy by confidence, and how many answers have it](../pictures/{name}_reliability.svg)

The ten mistakes with the highest confidence:

![The most confident mistakes: predicted and true class](../pictures/{name}_mistakes.svg)

Measured on {circumstances}

"""

CLAIMED = """## Not measured by us

We could not reach the publisher's server, so we have not seen this file, and the accuracy above is
Nervana's claim. When the file arrives, the library does this:

- It is converted [without executing anything](../security.md), and its structure is checked.
- It is tested on labeled CIFAR-10 training images that come with the package, with each of neon's
  two preprocessings (neon before 1.5.0 whitened differently). The better one is used. The accuracy
  and the loss with each are recorded in `model.weights.provenance`, and `allcnn-zoo inspect` shows
  them.
- If neither fits, you get a warning.
- The publisher gave no digest. That of the first download is recorded and enforced from then on:
  [downloads and cache](../hub.md).

If you have the file and CIFAR-10, measure it:

```sh
allcnn-zoo eval --weights {name}
```"""


def card(weights: Weights) -> str:
    """The model card of published weights."""
    ours = weights.measured_by_us
    return CARD.format(
        name=weights.name,
        about=(
            f"Weights of the network `{weights.architecture}` for {weights.dataset}."
            f" {'They come with the package.' if weights.bundled else 'Published by Nervana.'}"
        ),
        code=f'model = allcnn_zoo.load("{weights.name}")',
        facts=table(["", ""], _facts(weights)),
        body=_measured(weights) if ours else CLAIMED.format(name=weights.name),
        dataset=weights.dataset,
        count=len(weights.classes),
        calibrated=(
            f"Its calibration was measured on {weights.dataset} only."
            if ours
            else "Its calibration is unknown."
        ),
        license=weights.licence,
        citation=weights.citation,
    )


def _facts(weights: Weights) -> list[list[str]]:
    """What a reader compares."""
    network = allcnn_zoo.Architecture(weights.architecture)  # as neon's files are
    accuracy = [
        ["top-1, **not measured by us**", "{top1} %, {measured_by}".format(**weights.metrics)]
    ]
    where = f"<{weights.url}>"
    if weights.bundled:
        header = header_of(weights)
        network, test = header.architecture, header.metrics["test"]
        accuracy = [
            ["top-1, measured by us", percent(test["accuracy"])],
            ["test images", f"{test['images']:,}, one center view each"],
            ["averaged with the mirror image", percent(test["flip_averaged_accuracy"])],
            ["negative log-likelihood", f"{test['nll']:.4f}"],
            ["expected calibration error", percent(test["ece"])],
        ]
        where = f"{weights.size / 1e6:.1f} MB, in the package"
    if weights.paper_top1 is not None:
        accuracy.append(["top-1 in the paper, same protocol", f"{weights.paper_top1:.2f} %"])
    details = [
        f"{'' if network.last_padding else 'no '}padding of the last 3×3 convolution",
        f"{'' if network.final_relu else 'no '}ReLU after the last convolution",
    ]
    whitening = weights.preprocessing or "GCN + ZCA; a self-test on arrival chooses neon's variant"
    return [
        ["architecture", f"`{network.name}`; {', '.join(details)}"],
        ["classes", str(len(weights.classes))],
        ["parameters", f"{network.count_parameters():,}"],
        ["multiply-accumulates", f"{_multiply_adds(network) / 1e6:.0f} million per image"],
        ["data set, training protocol", f"{weights.dataset}, {weights.protocol}"],
        *accuracy,
        ["file", where],
        ["preprocessing", whitening],
        ["license", weights.licence],
    ]


@functools.cache
def _multiply_adds(network: allcnn_zoo.Architecture) -> int:
    """Of one image through the network alone."""
    model = allcnn_zoo.AllCNN(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2


def _measured(weights: Weights) -> str:
    header, found = header_of(weights), measured_of(weights)
    calibration = ""
    if found:
        calibration = CALIBRATION.format(
            name=weights.name,
            right=percent(found["accuracy"]),
            sure=found["answers_when_sure"],
            wrong=found["mistakes_when_sure"],
            circumstances=circumstances(found),
        )
    return MEASURED.format(
        classes=_classes(weights, header.metrics["test"]["confusion"]),
        calibration=calibration,
        command=header.provenance["command"],
        trained=_trained(header.provenance),
    )


def _classes(weights: Weights, confusion: list[list[int]]) -> str:
    """Recall, precision and confusions; for many classes, the most frequent confusions only."""
    names = weights.classes
    if len(names) > 20:
        mistakes = [
            (count, names[true], names[predicted])
            for true, counts in enumerate(confusion)
            for predicted, count in enumerate(counts)
            if true != predicted
        ]
        rows = [[true, wrong, str(count)] for count, true, wrong in sorted(mistakes)[:-11:-1]]
        return table(["true", "predicted", "images"], rows)
    rows = []
    for index, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        answers = sum(row[index] for row in confusion)
        most, rival = max((count, other) for other, count in enumerate(counts) if other != index)
        recall, precision = counts[index] / sum(counts), counts[index] / answers
        rows.append([name, percent(recall, 1), percent(precision, 1), f"{names[rival]} ({most})"])
    header = ["", *(name[:5] for name in names)]
    full = table(header, [[n, *map(str, row)] for n, row in zip(names, confusion, strict=True)])
    return (
        f"{table(['class', 'recall', 'precision', 'most often taken for'], rows)}\n\n"
        "![Confusion matrix: rows are true classes, columns predicted ones]"
        f"(../pictures/{weights.name}_confusion.svg)\n\n"
        "<details markdown>\n<summary>The same as a table</summary>\n\n"
        f"{full}\n\n</details>"
    )


def _trained(provenance: Mapping[str, Any]) -> str:
    """What is recorded of the run."""
    parts = [f"on {provenance['training_images']:,} images"]
    if machine := provenance.get("machine"):
        parts.append(machine.get("gpu") or "{cpu}, {cores} cores".format(**machine))
    if seconds := provenance.get("training_seconds"):
        parts.append(f"{seconds / 60:.0f} minutes")
    parts.append(provenance["recipe"]["precision"])
    parts.append(f"PyTorch {provenance['versions']['torch']}")
    parts.append(f"commit `{provenance['commit'][:7]}`")
    return f"Trained {', '.join(parts)}. Batch normalization was folded into the convolutions."
