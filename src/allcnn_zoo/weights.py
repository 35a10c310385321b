"""What a set of weights is, and where sets of weights are published.

`Metadata` travels in a weights file and sits on the model as ``model.weights``. `Weights` is a
published set: an address, and its publisher's description. Neither needs PyTorch.
"""

import dataclasses
import fnmatch
import functools
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .architectures import CIFAR10_CLASSES, CIFAR10_PAPER_ERRORS, STAGES, Architecture
from .errors import CheckpointError, check_name, quote
from .storage import from_json, read_texts

ASSETS = Path(__file__).parent / "assets"  #: what comes with the package

# Preprocessings by name: see `preprocessing.PREPROCESSINGS`.
GCN_ZCA = "cifar10_gcn_zca"  #: neon's from 1.5.0 on
GCN_ZCA_UNREGULARIZED = "cifar10_gcn_zca_unregularized"  #: neon's before 1.5.0
OWN = "own"  #: a `Preprocessor` whose statistics are in the weights file itself

#: Tag of weights about which nothing else is known.
CUSTOM = "custom"

#: Raised whenever the same neon file gives other bytes than before.
CONVERTER_VERSION = 2

#: The key of our JSON value in a safetensors header.
METADATA_KEY = "allcnn_zoo"
FORMAT_VERSION = 2

PAPER = "Springenberg et al., Striving for Simplicity: The All Convolutional Net, arXiv 1412.6806"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a set of weights is. A loaded model carries it as ``model.weights``.

    Tag, provenance and metrics are claims about particular tensors. They hold only while `digest`
    is the digest of the tensors.

    Attributes:
        tag: Short name, for example ``"neon_e350"``.
        architecture: The network that the weights fit.
        classes: Class names, one for each output.
        preprocessing: Name of the preprocessing that the weights were trained with, a key of
            `preprocessing.PREPROCESSINGS`; or ``"own"`` for statistics in the weights file itself.
        provenance: Where the weights come from and what was done to them, JSON values: source URL
            and digest, training recipe, what was folded or assumed.
        metrics: Figures that were measured for these weights, JSON values.
        digest: `checkpoint.digest_of` the tensors, 64 hex digits; None until it is known.

    Raises:
        CheckpointError: A value is not of its kind.
    """

    tag: str
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: str = GCN_ZCA
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str | None = None

    def __post_init__(self) -> None:
        for name in (self.tag, self.preprocessing, *self.classes):
            if not _is_one_line(name):
                raise CheckpointError(f"the name {quote(name)} is not text of one line")
        if not all(isinstance(each, Mapping) for each in (self.provenance, self.metrics)):
            raise CheckpointError("provenance and metrics are mappings of JSON values")
        if len(self.classes) != self.architecture.num_classes:
            raise CheckpointError(
                f"{len(self.classes)} class names for {self.architecture.num_classes} outputs"
            )
        if self.digest is not None and not isinstance(self.digest, str):
            raise CheckpointError(f"a digest is text, not {quote(self.digest)}")

    def without_claims(self) -> "Metadata":
        """What is true of any weights of this network with these classes."""
        return Metadata(CUSTOM, self.architecture, self.classes, self.preprocessing)


def _is_one_line(name: object) -> bool:
    """Whether this is text without anything that a terminal would obey, or JSON cannot hold."""
    refused = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return isinstance(name, str) and not refused & set(map(unicodedata.category, name))


@dataclasses.dataclass(frozen=True)
class Weights:
    """A published set of weights: where it is, and what its publisher says about it.

    Your own record needs a tag, the network's name and an address:
    ``Weights("lab_v1", "allcnn_c", url="https://host/lab_v1.safetensors")``. `load`, `create_model`
    and `download` take it.

    Attributes:
        tag: Short name; ``f"{architecture}.{tag}"`` is the full one.
        architecture: Name of the network.
        url: Where the publisher put the file, a neon pickle or, if it ends in ``.safetensors``,
            a weights file of ours: ``https://``, ``http://``, ``file://`` or a local path. None
            for weights that come with the package.
        key: The file's path below the bucket, and so below any mirror of it; None if there are no
            mirrors.
        sha256: Digest of the published file; None if the publisher gave none. Then its structure
            is checked, and the digest of the first download is recorded and enforced.
        size: Bytes of the published file; None if unknown.
        bundled: Name of the file in the package, for weights that come with it.
        preprocessing: Name of the preprocessing of the images; None if the self-test after the
            download decides.
        classes: Class names, one for each output except padding.
        metrics: Figures: ``top1`` in percent, ``measured_by`` and, by us, further ones.
        measured_by_us: Whether we measured these figures with exactly this file.
        dataset: What the network classifies.
        protocol: How the training images were augmented.
        recipe: How the weights were trained.
        licence: The publisher's terms.
        citation: What to cite.
    """

    tag: str
    architecture: str
    url: str | None = None
    key: str | None = None
    sha256: str | None = None
    size: int | None = None
    bundled: str | None = None
    preprocessing: str | None = None
    classes: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measured_by_us: bool = False
    dataset: str = ""
    protocol: str = ""
    recipe: str = ""
    licence: str = ""
    citation: str = ""

    @property
    def name(self) -> str:
        """Full name, such as ``"allcnn_c.neon_e350"``."""
        return f"{self.architecture}.{self.tag}"

    @property
    def paper_top1(self) -> float | None:
        """The paper's accuracy for this network in percent, if it has the same protocol."""
        if (self.dataset, self.protocol) != ("CIFAR-10", "no augmentation"):
            return None
        return round(100 - CIFAR10_PAPER_ERRORS[self.architecture], 2)


NEON_E350 = Weights(
    tag="neon_e350",
    architecture="allcnn_c",
    url=(
        "https://s3-us-west-1.amazonaws.com/nervana-modelzoo/cifar10_allcnn/cifar10_allcnn_e350.p"
    ),
    key="cifar10_allcnn/cifar10_allcnn_e350.p",
    classes=CIFAR10_CLASSES,
    metrics={"top1": 89.5, "measured_by": "Nervana ModelZoo readme, CIFAR-10 test set"},
    dataset="CIFAR-10",
    protocol="no augmentation",
    recipe="examples/cifar10_allcnn.py: 350 epochs, batch 128, SGD momentum 0.9, no augmentation",
    licence="published by Nervana Systems with its ModelZoo; no license is stated for the file",
    citation=PAPER,
)


@functools.cache
def _files() -> dict[str, Path]:
    """The files of the weights that come with the package, by the full name of the weights.

    Raises:
        CheckpointError: The package runs from an archive, or was bundled without its data.
    """
    if not ASSETS.is_dir():
        raise CheckpointError(
            f"{ASSETS} is not a folder. The bundled weights are files: unpack the archive that"
            " holds allcnn_zoo, or run PyInstaller with --collect-all allcnn_zoo."
        )
    return {path.stem: path for path in sorted(ASSETS.glob("*_?.*.safetensors"))}


@functools.cache
def _bundled(name: str) -> Weights:
    """Weights that come with the package, described by the header of their file."""
    path = _files()[name]
    header = from_json(read_texts(path, "weights")[METADATA_KEY])
    metrics, provenance = header["metrics"], header["provenance"]
    recipe, test = provenance["recipe"], metrics["test"]
    is_plain = recipe["flips"] == "none" and not recipe["shift"]
    return Weights(
        tag=header["tag"],
        architecture=header["architecture"]["name"],
        size=path.stat().st_size,
        bundled=path.name,
        preprocessing=header["preprocessing"],
        classes=tuple(header["classes"]),
        metrics={
            "top1": round(100 * test["accuracy"], 2),
            "measured_by": "allcnn_zoo, from this file, on the test images",
            "top1_flip_averaged": round(100 * test["flip_averaged_accuracy"], 2),
            "nll": test["nll"],
            "ece": test["ece"],
        },
        measured_by_us=True,
        dataset=provenance.get("dataset", "CIFAR-10"),
        protocol="no augmentation" if is_plain else "augmentation",
        recipe=f"`{provenance['command']}`, {recipe['epochs']} epochs",
        licence="Apache-2.0",
        citation=PAPER,
    )


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the networks that match a glob pattern, the paper's twelve by default.

    Args:
        pattern: For example ``"allcnn_*"``.
        pretrained: Only those for which weights are published.
    """
    published = (
        {name.partition(".")[0] for name in published_names().values()} if pretrained else STAGES
    )
    return [name for name in fnmatch.filter(STAGES, pattern) if name in published]


def list_weights(model: str | None = None) -> list[Weights]:
    """Published weights, of one network or of all, the preferred ones first.

    Raises:
        UnknownNameError: No network is called `model`.
    """
    if model is not None:
        check_name(model, STAGES, "network")
    names = [name for name in _files() if model in (None, name.partition(".")[0])]
    order = list(STAGES)
    bundled = sorted(
        map(_bundled, names),
        key=lambda each: (order.index(each.architecture), each.dataset, each.tag),
    )
    return [NEON_E350, *bundled] if model in (None, NEON_E350.architecture) else bundled


def get_weights(tag: str) -> Weights:
    """The record of published weights by full name, or by tag; All-CNN-C's where several have it.

    Raises:
        UnknownNameError: Nothing has been published under this name.
    """
    names = published_names()
    check_name(tag, names, "published set of weights")
    name = names[tag]
    return NEON_E350 if name == NEON_E350.name else _bundled(name)


def published_names() -> dict[str, str]:
    """Every name that `get_weights` knows, with the full name that it stands for.

    No file is opened for it.
    """
    names = sorted([NEON_E350.name, *_files()], key=lambda name: name.startswith("allcnn_c."))
    return {name.partition(".")[2]: name for name in names} | {name: name for name in names}


def converted_name(tag: str) -> str:
    """The name of a converted neon file in the cache; another for each version of the converter."""
    return f"{tag}-converted-v{CONVERTER_VERSION}.safetensors"
