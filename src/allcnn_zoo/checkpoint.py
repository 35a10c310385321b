"""Our own weights file: safetensors, with one versioned JSON header that says what the weights are.

The tensors are named like the `state_dict` of the plain network. The header travels with them:
architecture, class names, preprocessing, where they came from, how good they are. It is validated
against the tensors before a network is built, and the same input always gives the same bytes.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .architecture import AllCNN, Architecture
from .catalogue import GCN_ZCA
from .errors import AllCNNZooError, CheckpointError
from .files import write_atomically

_METADATA_KEY = "allcnn_zoo"
_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a set of weights is. A loaded model carries it as ``model.weights``.

    Attributes:
        tag: Short name, such as ``"neon_e350"``.
        architecture: The network that the weights fit.
        classes: Class names, one for each output.
        preprocessing: Name of the preprocessing that the weights were trained with.
        provenance: Where the weights come from and what was done to them, JSON values: source URL
            and digest, training recipe, what was folded or assumed.
        metrics: Figures that were measured for these weights, JSON values.
        temperature: Divisor of the logits that calibrates the probabilities; 1 leaves them alone.
    """

    tag: str
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: str = GCN_ZCA
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.classes) != self.architecture.num_classes:
            raise CheckpointError(
                f"{len(self.classes)} class names for {self.architecture.num_classes} outputs"
            )
        if self.preprocessing != GCN_ZCA:
            raise CheckpointError(
                f"unknown preprocessing {self.preprocessing!r:.60}; only {GCN_ZCA!r} ships"
            )
        if not 0 < self.temperature < float("inf"):
            raise CheckpointError(f"a temperature is positive and finite, not {self.temperature}")


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write weights and header to `path`, completely or not at all.

    Args:
        path: Destination, usually ``*.safetensors``; replaced if it exists.
        tensors: float32 tensors, named and shaped as ``metadata.architecture`` needs them.
        metadata: What they are.

    Raises:
        CheckpointError: The tensors do not fit the architecture or are not finite.
        OSError: The file cannot be written; nothing is left behind.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check_tensors(tensors, metadata.architecture)
    header = {"format_version": _FORMAT_VERSION, **dataclasses.asdict(metadata)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_atomically(path, to_bytes(tensors, {_METADATA_KEY: text}))


def read_metadata(path: str | Path) -> Metadata:
    """The header of a weights file, validated; the weights are not read.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return _read(path, with_tensors=False)[0]


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a weights file really holds; their values are not read.

    Raises:
        CheckpointError: As `read_metadata`.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load(path: str | Path) -> AllCNN:
    """The network that a weights file describes, in eval mode, with ``weights`` set.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, of a newer version, or its
            tensors are not those that its header promises.
    """
    metadata, tensors = _read(path, with_tensors=True)
    try:
        _check_tensors(tensors, metadata.architecture)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return build(tensors, metadata)


def build(tensors: Mapping[str, Tensor], metadata: Metadata) -> AllCNN:
    """The network of ``metadata.architecture`` with these weights, in eval mode."""
    with torch.device("meta"):
        model = AllCNN(metadata.architecture)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_()
    model.weights = metadata
    return model.eval()


def _read(path: str | Path, *, with_tensors: bool) -> tuple[Metadata, dict[str, Tensor]]:
    with _opened(path) as file:
        header = (file.metadata() or {}).get(_METADATA_KEY)
        if header is None:
            raise CheckpointError("it has no allcnn_zoo header: another program wrote it")
        metadata = _parse_header(header)
        names = file.keys() if with_tensors else ()
        return metadata, {name: file.get_tensor(name) for name in names}


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file; whatever is wrong with it is a `CheckpointError` that names it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, AllCNNZooError) as error:
        raise CheckpointError(f"cannot read weights from {path}: {error}") from error


def _parse_header(text: str) -> Metadata:
    try:
        header: dict[str, Any] = json.loads(text)
        version = header.pop("format_version")
        if version != _FORMAT_VERSION:
            raise CheckpointError(
                f"its format version is {version!r:.20}, this allcnn_zoo reads {_FORMAT_VERSION};"
                " upgrade with `pip install --upgrade allcnn-zoo`"
            )
        architecture = header.pop("architecture")
        architecture["widths"] = tuple(architecture["widths"])
        header["classes"] = tuple(str(name) for name in header["classes"])
        return Metadata(architecture=Architecture(**architecture), **header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, AllCNNZooError):
            raise
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error


def _check_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    expected = architecture.shapes()
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise CheckpointError(
            f"the tensors are not those of {architecture.name}: {odd[0]!r:.80} is"
            f" {'missing' if odd[0] in expected else 'not one of its parameters'}"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)};"
                f" {architecture.name} needs torch.float32 {shape}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite numbers")
