"""What has been published: one frozen record for each set of weights."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .architectures import CIFAR10_CLASSES, STAGES
from .errors import check_name

ASSETS = Path(__file__).parent / "assets"  #: what comes with the package

GCN_ZCA = "cifar10_gcn_zca"  #: the preprocessing that ships: `Preprocessor.shipped`

#: Raised whenever the same neon file gives other bytes than before; part of the cache's file names.
CONVERTER_VERSION = 1

PAPER = "Springenberg et al., Striving for Simplicity: The All Convolutional Net, arXiv 1412.6806"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A published set of weights.

    Attributes:
        tag: Short name; ``f"{architecture}.{tag}"`` is the full one.
        architecture: Name of the network.
        url: Where the publisher put the file; None for weights that come with the package.
        key: The file's path below the bucket, and so below any mirror of it.
        sha256: Digest of the published file; None where the publisher never gave one. Then its
            structure is checked, the digest is recorded on first use and enforced ever after.
        size: Bytes of the published file; None where unknown.
        bundled: Name of the file in the package, for weights that come with it.
        preprocessing: What the images must go through first.
        classes: Class names, one for each output that means something.
        metrics: What the publisher measured.
        recipe: How the weights were trained.
        licence: The publisher's terms.
        citation: What to cite.
    """

    tag: str
    architecture: str
    url: str | None
    key: str | None
    sha256: str | None
    size: int | None
    bundled: str | None
    preprocessing: str
    classes: tuple[str, ...]
    metrics: Mapping[str, Any]
    recipe: str
    licence: str
    citation: str

    @property
    def name(self) -> str:
        """Full name, such as ``"allcnn_c.neon_e350"``."""
        return f"{self.architecture}.{self.tag}"


NEON_E350 = Weights(
    tag="neon_e350",
    architecture="allcnn_c",
    url=(
        "https://s3-us-west-1.amazonaws.com/nervana-modelzoo/cifar10_allcnn/cifar10_allcnn_e350.p"
    ),
    key="cifar10_allcnn/cifar10_allcnn_e350.p",
    sha256=None,
    size=None,
    bundled=None,
    preprocessing=GCN_ZCA,
    classes=CIFAR10_CLASSES,
    metrics={"top1": 89.5, "measured_by": "Nervana ModelZoo readme, CIFAR-10 test set"},
    recipe="examples/cifar10_allcnn.py: 350 epochs, batch 128, SGD momentum 0.9, no augmentation",
    licence="published by Nervana Systems with its ModelZoo; no licence is stated for the file",
    citation=PAPER,
)


def _bundled(tag: str) -> Weights:
    """Weights that come with the package, described by the results of the run that made them."""
    results = json.loads((ASSETS / f"{tag}.json").read_text())
    recipe, test = results["recipe"], results["test"]
    means = recipe["summary"].partition(":")[0]
    return Weights(
        tag=tag,
        architecture=recipe["architecture"]["name"],
        url=None,
        key=None,
        sha256=None,
        size=None,
        bundled=f"{tag}.safetensors",
        preprocessing=GCN_ZCA,
        classes=CIFAR10_CLASSES,
        metrics={
            "top1": round(100 * test["accuracy"], 2),
            "measured_by": "allcnn-zoo train --test, CIFAR-10 test set",
            "top1_flip_averaged": round(100 * test["flip_averaged_accuracy"], 2),
            "nll": test["nll"],
            "ece": test["ece"],
        },
        recipe=f"`allcnn-zoo train --recipe {recipe['name']}`, {recipe['epochs']} epochs: {means}",
        licence="Apache-2.0",
        citation=PAPER,
    )


CIFAR10_BEST = _bundled("cifar10_best")
CIFAR10_PLAIN = _bundled("cifar10_plain")

#: Every published set of weights, the preferred one of each architecture first.
CATALOGUE: tuple[Weights, ...] = (NEON_E350, CIFAR10_BEST, CIFAR10_PLAIN)


def list_weights(model: str | None = None) -> list[Weights]:
    """Published weights, of one network or of all, the preferred ones first.

    Raises:
        UnknownNameError: No network is called `model`.
    """
    if model is not None:
        check_name(model, STAGES, "network")
    return [weights for weights in CATALOGUE if model in (None, weights.architecture)]


def get_weights(tag: str) -> Weights:
    """The record of published weights by tag (``"neon_e350"``) or full name.

    Raises:
        UnknownNameError: Nothing has been published under this name.
    """
    by_name = {name: weights for weights in CATALOGUE for name in (weights.tag, weights.name)}
    check_name(tag, by_name, "published set of weights")
    return by_name[tag]
