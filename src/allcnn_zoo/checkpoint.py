"""Our weights file: safetensors, with one versioned JSON value that describes the weights.

The tensors are named like the `state_dict` of the plain network, float32 or float16. The header
describes them: architecture, class names, preprocessing, origin, metrics, and the digest of the
tensors that all of this refers to. It is validated against the tensors before a network is built.
The same input always gives the same bytes.

Files of format 1 are also read. They have no digest, and a temperature that divides the logits,
which is folded into the last convolution.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import save as serialize
from torch import Tensor

from .architectures import Architecture
from .errors import AllCNNZooError, CheckpointError, check_name, printable, quote
from .preprocessing import PREPROCESSINGS, Preprocessor
from .storage import RESCUED_KEY, from_json, opened, read_texts, to_json, write_atomically
from .weights import FORMAT_VERSION, METADATA_KEY, OWN, Metadata

_CODE = "_extra_state"  # PyTorch's name for `Architecture.code` in a `state_dict`
_PREPROCESSING = "preprocessing."  # prefix of statistics that travel with the weights
_UNSHARED = 32_767  # numbers that PyTorch converts in one thread
_TEMPERATURES = (1e-3, 1e3)


class Checkpoint(NamedTuple):
    """The content of a weights file.

    Attributes:
        tensors: float32, named like the `state_dict` of ``metadata.architecture``.
        metadata: Their description.
        preprocess: Their own statistics, if ``metadata.preprocessing`` is ``"own"``.
    """

    tensors: dict[str, Tensor]
    metadata: Metadata
    preprocess: Preprocessor | None = None


def save(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    preprocess: Preprocessor | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write weights and header to `path`, completely or not at all.

    The file's `metadata` gets the digest of these tensors.

    Args:
        path: Destination, usually ``*.safetensors``; replaced if it exists.
        tensors: Floating-point tensors, named and shaped as ``metadata.architecture`` needs them.
        metadata: Their description.
        preprocess: Their own statistics, if ``metadata.preprocessing`` is ``"own"``.
        dtype: How to store the weights; float16 halves the file and rounds them.

    Raises:
        CheckpointError: The tensors do not fit the architecture or are not finite, or the header
            holds values that JSON cannot represent.
        OSError: The file cannot be written; nothing is left behind.
    """
    write_atomically(path, to_bytes(tensors, metadata, preprocess=preprocess, dtype=dtype))


def to_bytes(
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    preprocess: Preprocessor | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> bytes:
    """The content of the weights file that `save` writes; arguments and errors are the same."""
    architecture = metadata.architecture
    stored = {
        name: tensor.detach().cpu().to(getattr(torch, dtype)).contiguous()
        for name, tensor in tensors.items()
    }
    stored[_CODE] = code_of(architecture)
    _check_tensors(stored, architecture)
    if (metadata.preprocessing == OWN) != (preprocess is not None):
        raise CheckpointError(
            f"preprocessing={metadata.preprocessing!r} does not go with preprocess={preprocess!r}"
        )
    if preprocess is not None:
        preprocess.check()
    statistics, whitening = _statistics(preprocess)
    header = {
        **vars(metadata),
        "format_version": FORMAT_VERSION,
        "architecture": vars(architecture),
        "digest": digest_of(stored, preprocess),
        **({"whitening": whitening} if statistics else {}),
    }
    content = serialize({**stored, **statistics})
    # safetensors writes several texts in any order, but equal weights must give equal bytes.
    data = 8 + int.from_bytes(content[:8], "little")
    text = to_json(header, sort_keys=True, separators=(",", ":"))
    texts = {"format": "pt", METADATA_KEY: text}
    start = to_json({"__metadata__": texts, **from_json(content[8:data].decode())}).encode()
    start += b" " * (-len(start) % 8)
    return len(start).to_bytes(8, "little") + start + content[data:]


def code_of(architecture: Architecture) -> Tensor:
    """The architecture's `code`, float32 ``(3,)`` on the CPU, regardless of PyTorch's defaults."""
    return torch.tensor(architecture.code(), dtype=torch.float32, device="cpu")


def digest_of(tensors: Mapping[str, Tensor], preprocess: Preprocessor | None = None) -> str:
    """SHA-256 over names, shapes and values, which ties the metadata to the weights.

    Values are hashed as float32, so weights stored in half precision keep their digest when loaded.
    The weights' own statistics are included.
    """
    statistics, text = _statistics(preprocess)
    digest = hashlib.sha256(text.encode())
    for name, values in sorted({**tensors, **statistics}.items()):
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values.detach().float().cpu(), "<f4").data)
    return digest.hexdigest()


def _statistics(preprocess: Preprocessor | None) -> tuple[dict[str, Tensor], str]:
    """The statistics by their names in a file, and the settings of their fit."""
    tensors, text = preprocess.to_tensors() if preprocess else ({}, "")
    return {_PREPROCESSING + name: tensor for name, tensor in tensors.items()}, text


def _check_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Check that these are finite weights of a plain network."""
    expected = {**architecture.shapes(), _CODE: (len(architecture.code()),)}
    if tensors.keys() != expected.keys():
        odd = min(tensors.keys() ^ expected.keys())
        raise CheckpointError(
            f"the tensors are not those of {architecture.name}: {quote(odd)} is"
            f" {'missing' if odd in expected else 'not one of its parameters'}"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype not in (torch.float32, torch.float16):
            raise CheckpointError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)!r:.100}; {architecture.name} needs"
                f" float32 or float16 {shape}"
            )
        if not np.isfinite(tensor.numpy()).all():
            raise CheckpointError(f"{name} holds values that are not finite numbers")
    if tuple(tensors[_CODE].tolist()) != architecture.code():
        raise CheckpointError(f"{_CODE} describes another network than the header: {architecture}")


def read(path: str | Path, *, check_digest: bool = True) -> Checkpoint:
    """What a weights file holds, validated.

    If the digest does not match the tensors, tag, provenance and metrics are dropped, with a
    warning. Without `check_digest`, the caller must check it before using them, as
    ``model.weights`` does: computing the digest takes as long as reading the file.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, of a newer version, or its
            tensors are not weights of the network that its header promises.
    """
    with opened(path, "weights") as (arrays, texts):
        metadata, whitening, temperature = _parse_header(texts)
        tensors = {name: _in_single(torch.from_numpy(array)) for name, array in arrays.items()}
        statistics = {
            name.removeprefix(_PREPROCESSING): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_PREPROCESSING)
        }
        preprocess = None
        if metadata.preprocessing == OWN:
            preprocess = Preprocessor.from_tensors(statistics, whitening)
        elif statistics:
            raise CheckpointError(f"it holds statistics, but names {metadata.preprocessing}")
        else:
            check_name(metadata.preprocessing, [*PREPROCESSINGS, OWN], "preprocessing")
        if metadata.digest is None:  # format 1
            tensors[_CODE] = code_of(metadata.architecture)
        _check_tensors(tensors, metadata.architecture)
        if metadata.digest is None:
            _fold_temperature(tensors, temperature)
            metadata = dataclasses.replace(metadata, digest=digest_of(tensors))
        elif check_digest and metadata.digest != digest_of(tensors, preprocess):
            warnings.warn(
                f"{printable(path)}: the tensors are not those that the header describes, so"
                " its tag, provenance and metrics are ignored",
                stacklevel=3,
            )
            metadata = metadata.without_claims()
    in_order = (*metadata.architecture.shapes(), _CODE)
    return Checkpoint({name: tensors[name] for name in in_order}, metadata, preprocess)


def _in_single(values: Tensor) -> Tensor:
    """Convert half precision to float32, in pieces that PyTorch converts in one thread.

    Starting threads would take longer than everything else, and numpy is eight times slower.
    """
    if values.dtype != torch.float16:
        return values
    single = torch.empty(values.shape, dtype=torch.float32)
    pieces = (torch.split(each.flatten(), _UNSHARED) for each in (single, values))
    for into, piece in zip(*pieces, strict=True):
        into.copy_(piece)
    return single


def read_metadata(path: str | Path) -> Metadata:
    """The header of a weights file, without checking it against the tensors.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or of a newer version.
    """
    texts = read_texts(path, "weights")
    try:
        return _parse_header(texts)[0]
    except CheckpointError as error:
        raise CheckpointError(f"cannot read weights from {printable(path)}: {error}") from error


def _parse_header(texts: Mapping[str, str]) -> tuple[Metadata, Any, Any]:
    """Read a header: metadata, the statistics' text and the temperature, where present."""
    if RESCUED_KEY in texts:
        raise CheckpointError(
            "it is a rescued neon network, not a weights file; run it by allcnn_zoo.neon.to_module"
        )
    if METADATA_KEY not in texts:
        raise CheckpointError("it has no allcnn_zoo header: another program wrote it")
    header = from_json(texts[METADATA_KEY])
    if not isinstance(header, dict) or "format_version" not in header:
        raise CheckpointError("its header is damaged: it has no format version")
    version = header.pop("format_version")
    if version not in (1, FORMAT_VERSION) or isinstance(version, bool):
        raise CheckpointError(
            f"its format version is {quote(version)}, this allcnn_zoo reads 1 to {FORMAT_VERSION};"
            " upgrade with `pip install --upgrade allcnn-zoo`"
        )
    if (version == 1) == ("digest" in header):
        raise CheckpointError(f"its header is damaged: format {version} with or without a digest")
    whitening, temperature = header.pop("whitening", ""), header.pop("temperature", 1)
    try:
        architecture = {**header["architecture"]}
        architecture["widths"] = tuple(architecture["widths"])
        header["architecture"] = Architecture(**architecture)
        header["classes"] = tuple(map(str, header["classes"]))
        return Metadata(**header), whitening, temperature
    except AllCNNZooError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"its header is damaged: {quote(str(error))}") from None


def _fold_temperature(tensors: Mapping[str, Tensor], temperature: Any) -> None:
    """Divide the logits by the temperature that calibrates the probabilities, in the weights."""
    low, high = _TEMPERATURES
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not is_number or not low <= temperature <= high:
        raise CheckpointError(
            f"a temperature is a number in {low}...{high}, not {quote(temperature)}"
        )
    for name in ("classifier.weight", "classifier.bias"):
        if not tensors[name].div_(temperature).isfinite().all():
            raise CheckpointError(f"{name}, divided by the temperature, is not finite")
