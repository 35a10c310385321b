"""From a legacy neon file to weights of ours: read, executing nothing; convert; say where from."""

import hashlib
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import neon, rescued
from .architectures import CIFAR10_CLASSES, Architecture
from .checkpoint import Metadata, save
from .errors import NeonError
from .weights import CONVERTER_VERSION


def convert_neon(
    source: str | Path,
    destination: str | Path,
    keep_padding: bool = False,
    *,
    dropout_mode: neon.DropoutMode | None = None,
    source_url: str | None = None,
) -> Metadata:
    """Convert neon's All-CNN-C pickle into a weights file; nothing in the pickle is executed.

    The same input gives the same bytes. See `read_neon` for what is done to the weights.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        keep_padding: Keep all 16 outputs; by default the six that pad CIFAR-10's ten are dropped.
        dropout_mode: How dropout worked, for a file that does not record it (neon 1.1 and older).
        source_url: Where the file was downloaded from, for the record.

    Returns:
        The header that was written.

    Raises:
        NeonError: The file is not a neon file, is of another network, is not safe, or is
            `destination` itself.
        OSError: `destination` cannot be written; nothing is left behind.
    """
    _refuse_itself(source, destination)
    tensors, metadata = read_neon(
        source, keep_padding=keep_padding, dropout_mode=dropout_mode, source_url=source_url
    )
    save(destination, tensors, metadata)
    return metadata


def read_neon(
    source: str | Path,
    *,
    keep_padding: bool = False,
    dropout_mode: neon.DropoutMode | None = None,
    source_url: str | None = None,
) -> tuple[dict[str, Tensor], Metadata]:
    """Weights and header from neon's All-CNN-C pickle, in memory.

    Kernels go from neon's (C*R*S, K) to (K, C, R, S); neon's dropout factors are folded into the
    convolution that follows, and biases and batch normalisation into theirs, so that logits and
    probabilities are neon's own. The header's provenance says what was done; what had to be
    assumed, because the file does not say, is a warning too.

    Arguments and errors are those of `convert_neon`.
    """
    data = neon.read_file(source)
    with ThreadPoolExecutor(1) as beside:  # hashing takes as long as all the rest
        hashed = beside.submit(hashlib.sha256, data)
        try:
            model = neon.read_model_bytes(data)
            converted = neon.convert_allcnn(
                model, keep_padding=keep_padding, dropout_mode=dropout_mode
            )
        except NeonError as error:
            raise type(error)(f"{source}: {error}") from error
    for assumption in converted.provenance["assumed"]:
        warnings.warn(f"{source}: {assumption}", stacklevel=2)
    digest = hashed.result().hexdigest()
    architecture = Architecture(
        "allcnn_c",
        num_classes=converted.num_classes,
        widths=converted.widths,
        last_padding=converted.last_padding,
        final_relu=converted.final_relu,
    )
    metadata = Metadata(
        tag=f"neon-{digest[:12]}",
        architecture=architecture,
        classes=_class_names(converted.num_classes),
        provenance={
            "source": {"url": source_url, "sha256": digest},
            "converter_version": CONVERTER_VERSION,
            **converted.provenance,
        },
    )
    tensors = {name: torch.from_numpy(array) for name, array in converted.weights.items()}
    return tensors, metadata


def rescue_neon(
    source: str | Path, destination: str | Path, *, states: bool = False
) -> Mapping[str, Any]:
    """Write every parameter of any neon model to safetensors; nothing in the pickle is executed.

    Names follow the tree of layers, arrays have PyTorch's layouts, and the header describes the
    network: see `neon.rescue`. It is neon's network as it is, not one of ours: to run it, use
    `neon.to_module`. The same network gives the same bytes, whether Python 2 or 3 wrote it.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        states: Include the optimizer's states.

    Returns:
        The description that was written: what the file said, and the layers.

    Raises:
        NeonError: The file is not a neon model, contradicts itself, is not safe, or is
            `destination` itself.
        OSError: `destination` cannot be written; nothing is left behind.
    """
    _refuse_itself(source, destination)
    model = neon.read_model(source)
    try:
        network = neon.rescue(model, states=states)
    except NeonError as error:
        raise type(error)(f"{source}: {error}") from error
    rescued.save(destination, network.arrays, network.description)
    return network.description


def _refuse_itself(source: str | Path, destination: str | Path) -> None:
    """A legacy file may be the last of its kind: nothing is written over it."""
    try:
        is_same = Path(source).samefile(destination)
    except (OSError, ValueError):  # reading the one or writing the other will say why
        return
    if is_same:
        raise NeonError(f"{source} would be overwritten by {destination}; give OUT another name")


def _class_names(count: int) -> tuple[str, ...]:
    """CIFAR-10's names for neon's outputs; 16 are its ten classes and padding."""
    if count == 16:
        return CIFAR10_CLASSES + tuple(f"padding_{index}" for index in range(10, 16))
    if count == 10:
        return CIFAR10_CLASSES
    return tuple(f"class_{index}" for index in range(count))
