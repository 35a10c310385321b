"""Our own weights file: safetensors, with one versioned JSON header that says what the weights are.

The tensors are named like the `state_dict` of the plain network. The header travels with them:
architecture, class names, preprocessing, where they came from, how good they are. It is validated
against the tensors before a network is built, and the same input always gives the same bytes.
"""

import dataclasses
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialise
from torch import Tensor

from .architectures import Architecture
from .errors import AllCNNZooError, CheckpointError
from .model import AllCNN
from .storage import RESCUED_KEY, from_json, opened, to_json, write_atomically
from .weights import GCN_ZCA

_METADATA_KEY = "allcnn_zoo"
_FORMAT_VERSION = 1
_FLOAT32 = "F32"  # safetensors' name for it


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
        for name in (self.tag, *self.classes):
            if not _is_text(name):
                raise CheckpointError(f"the name {name!r:.60} is not text of one line")
        if not all(isinstance(each, Mapping) for each in (self.provenance, self.metrics)):
            raise CheckpointError("provenance and metrics are mappings of JSON values")
        if len(self.classes) != self.architecture.num_classes:
            raise CheckpointError(
                f"{len(self.classes)} class names for {self.architecture.num_classes} outputs"
            )
        if self.preprocessing != GCN_ZCA:
            raise CheckpointError(
                f"unknown preprocessing {self.preprocessing!r:.60}; only {GCN_ZCA!r} ships"
            )
        number = isinstance(self.temperature, (int, float)) and self.temperature is not True
        if not (number and 0 < self.temperature <= sys.float_info.max):
            raise CheckpointError(
                f"a temperature is a positive, finite number, not {self.temperature!r:.60}"
            )


def _is_text(name: object) -> bool:
    """Whether this is text without control characters, which a terminal would obey."""
    controls = {"Cc", "Cs"}
    return isinstance(name, str) and not controls & set(map(unicodedata.category, name))


def metadata_of(model: AllCNN) -> Metadata:
    """What the weights of a network are, if it can classify with them.

    Raises:
        AllCNNZooError: The network carries no weights, or not as many class names as outputs.
    """
    if not isinstance(model.weights, Metadata):
        raise AllCNNZooError(
            "this network has no weights, so its labels would be noise; build it with"
            " pretrained=True or allcnn_zoo.load(file)"
        )
    if not describes(model.weights, model):
        raise AllCNNZooError(
            f"the last convolution was replaced: its {model.architecture.num_classes} outputs are"
            f" not the {len(model.weights.classes)} classes of {model.weights.tag}; save the"
            " trained network with its own class names (allcnn_zoo.checkpoint.save) and load that"
        )
    return model.weights


def describes(metadata: Metadata, model: AllCNN) -> bool:
    """Whether the class names are those of the network's outputs."""
    count = model.architecture.num_classes
    return not model.has_fresh_head and len(metadata.classes) == count


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
    write_atomically(path, to_bytes(tensors, metadata))


def to_bytes(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    """The content of the weights file that `save` writes; arguments and errors are the same."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = {torch.float32: _FLOAT32}
    _check_layout(
        {name: (tuple(t.shape), names.get(t.dtype, str(t.dtype))) for name, t in tensors.items()},
        metadata.architecture,
    )
    _check_values(tensors)
    header = {field.name: getattr(metadata, field.name) for field in dataclasses.fields(metadata)}
    header |= {
        "format_version": _FORMAT_VERSION,
        "architecture": dataclasses.asdict(metadata.architecture),
    }
    text = to_json(header, sort_keys=True, separators=(",", ":"))
    return serialise(tensors, {_METADATA_KEY: text})


def read_metadata(path: str | Path) -> Metadata:
    """The header of a weights file, validated; the weights are not read.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or of a newer version.
    """
    with opened(path, "weights") as file:
        return _metadata_of(file)


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a weights file really holds; their values are not read.

    Raises:
        CheckpointError: As `read_metadata`.
    """
    with opened(path, "weights") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load(path: str | Path) -> AllCNN:
    """The network that a weights file describes, in eval mode, with ``weights`` set.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, of a newer version, or its
            tensors are not those that its header promises.
    """
    with opened(path, "weights") as file:
        metadata = _metadata_of(file)
        # Names, types and shapes first: a file that lies about them never gets its tensors read.
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        _check_layout(
            {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in found.items()},
            metadata.architecture,
        )
        # Copies, because the file's pages may change or go when somebody else writes to it. By
        # numpy, which does not wake a pool of threads for a few megabytes.
        tensors = {name: torch.from_numpy(file.get_tensor(name).numpy().copy()) for name in found}
        _check_values(tensors)
    return build(tensors, metadata)


def build(tensors: Mapping[str, Tensor], metadata: Metadata) -> AllCNN:
    """The network of ``metadata.architecture`` with these weights, in eval mode."""
    with torch.device("meta"):
        model = AllCNN(metadata.architecture)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_()
    model.weights = metadata
    return model.eval()


def _metadata_of(file: Any) -> Metadata:
    headers = file.metadata() or {}
    if RESCUED_KEY in headers:
        raise CheckpointError(
            "it is a rescued neon network, not one of ours; allcnn_zoo.neon.to_module rebuilds it"
        )
    header = headers.get(_METADATA_KEY)
    if header is None:
        raise CheckpointError("it has no allcnn_zoo header: another program wrote it")
    return _parse_header(header)


def _parse_header(text: str) -> Metadata:
    try:
        header: dict[str, Any] = from_json(text)
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
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, AllCNNZooError):
            raise
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error


def _check_layout(
    found: Mapping[str, tuple[tuple[int, ...], str]], architecture: Architecture
) -> None:
    """Names, shapes and types (as safetensors writes them) are those of the architecture."""
    expected = architecture.shapes()
    if found.keys() != expected.keys():
        odd = min(found.keys() ^ expected.keys())
        raise CheckpointError(
            f"the tensors are not those of {architecture.name}: {odd!r:.80} is"
            f" {'missing' if odd in expected else 'not one of its parameters'}"
        )
    for name, shape in expected.items():
        if found[name] != (shape, _FLOAT32):
            raise CheckpointError(
                f"{name} is {found[name][1]} {found[name][0]!r:.100};"
                f" {architecture.name} needs {_FLOAT32} {shape}"
            )


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.numpy()).all():
            raise CheckpointError(f"{name} holds values that are not finite numbers")
