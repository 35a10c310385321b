"""Finds the preprocessing that weights need: they classify labeled images with each.

A file of neon's does not say how its training images were whitened, and neon changed that with
version 1.5.0. Nor does a file of neon 1.1 say how dropout worked. So weights are run once, when
they arrive, on 400 of CIFAR-10's training images that come with the package.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .architectures import CIFAR10_CLASSES, Architecture
from .model import build
from .preprocessing import get_preprocessing
from .storage import opened
from .weights import ASSETS, GCN_ZCA, GCN_ZCA_UNREGULARIZED, Metadata

#: Every preprocessing that neon had for CIFAR-10, the newest first.
PREPROCESSINGS_OF_NEON = (GCN_ZCA, GCN_ZCA_UNREGULARIZED)

# Weights with as little as 75 % on the test images are right on 70 % of these and more, those with
# another kernel layout or random ones on 10 to 25 %.
_LEAST_ACCURACY = 0.5
_MICRO_BATCH = 50
PADDED_OUTPUTS = 16  #: of neon's files: its GPU kernels wanted outputs in multiples of 16


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What the weights did on the images.

    Attributes:
        preprocessing: The one with the lowest loss, a key of `preprocessing.PREPROCESSINGS`.
        candidate: Number of the set of weights with the lowest loss.
        fits: Whether they classify: at least half of the images are right, and no two outputs
            would give more right answers if they were swapped.
        metrics: Number of images, accuracy and loss of the best, JSON values.
        record: The figures of every candidate, JSON values.
    """

    preprocessing: str
    candidate: int
    fits: bool
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]


def sample_images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The labeled images: 40 of each class from CIFAR-10's training images.

    Returns:
        uint8 ``(400, 3, 32, 32)`` and int64 ``(400,)``, in the order of `CIFAR10_CLASSES`.
    """
    with opened(ASSETS / "samples_cifar10.safetensors", "sample images") as (arrays, _):
        return arrays["images"], arrays["labels"].astype(np.int64)


def run_self_test(
    candidates: Sequence[Mapping[str, Tensor]], architecture: Architecture
) -> SelfTest | None:
    """Classify the images with each set of weights after each preprocessing.

    Args:
        candidates: One or more sets of weights for the same network.
        architecture: The network.

    Returns:
        None for a network with another number of outputs than CIFAR-10's ten, or 16, which are
        neon's ten and padding: there is no way to test it.
    """
    if architecture.num_classes not in (len(CIFAR10_CLASSES), PADDED_OUTPUTS):
        return None
    labels = torch.from_numpy(sample_images()[1])
    results: list[dict[str, Any]] = []
    for preprocessing in PREPROCESSINGS_OF_NEON:
        inputs = _inputs(preprocessing)
        for number, tensors in enumerate(candidates):
            logits = _logits(tensors, architecture, inputs)
            confusion = torch.zeros(10, 10, dtype=torch.int64)
            confusion.index_put_((labels, logits.argmax(1)), torch.tensor(1), accumulate=True)
            right = confusion.diagonal()
            # How many more images would be right if the outputs of two classes were swapped.
            gain = confusion + confusion.T - right[:, None] - right
            results.append(
                {
                    "preprocessing": preprocessing,
                    "candidate": number,
                    "accuracy": float(right.sum()) / len(labels),
                    "nll": float(functional.cross_entropy(logits, labels)),
                    "classes_swapped": [
                        [CIFAR10_CLASSES[first], CIFAR10_CLASSES[second]]
                        for first, second in (gain.triu(1) > 0).nonzero().tolist()
                    ],
                }
            )
    best = min(results, key=lambda result: result["nll"])
    fits = best["accuracy"] >= _LEAST_ACCURACY and not best["classes_swapped"]
    return SelfTest(
        preprocessing=best["preprocessing"],
        candidate=best["candidate"],
        fits=fits,
        metrics={"images": len(labels), "accuracy": best["accuracy"], "nll": best["nll"]},
        record={"images": "training images of CIFAR-10", "fits": fits, "results": results},
    )


@functools.cache
@torch.inference_mode()
def _inputs(preprocessing: str) -> Tensor:
    """The preprocessed images, channels last."""
    images = torch.from_numpy(sample_images()[0])
    whitened: Tensor = get_preprocessing(preprocessing)(images)
    return whitened.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _logits(tensors: Mapping[str, Tensor], architecture: Architecture, inputs: Tensor) -> Tensor:
    """Float64 logits of the ten classes."""
    names = tuple(f"output_{number}" for number in range(architecture.num_classes))
    metadata = Metadata("candidate", architecture, names, digest="")
    model = build(tensors, metadata)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = torch.cat([model(batch) for batch in torch.split(inputs, _MICRO_BATCH)])
    return logits[:, : len(CIFAR10_CLASSES)].double()
