"""A model as one file for other runtimes, with its preprocessing inside.

The exported program takes uint8 RGB images (N, 3, 32, 32) and returns probabilities, float32
(N, classes): contrast normalization, whitening, network and softmax are in the file. It is run and
compared with the model before the file is written.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .classifier import Classifier
from .errors import ExportError
from .model import AllCNN, fold_batch_norm
from .onnx_graph import (
    BATCH,
    IMAGE,
    INPUT,
    OUTPUT,
    SEEN,
    Whitening,
    describe,
    import_package,
    to_onnx,
)
from .preprocessing import Preprocessor
from .storage import write_atomically

#: Runs what was exported: uint8 (N, 3, 32, 32) in, all its outputs out.
Run: TypeAlias = Callable[[npt.NDArray[np.uint8]], Sequence[npt.NDArray[np.float32]]]

_FLOAT32_BYTES = 4

# How far probabilities and whitened images may differ from the model's.
_TOLERANCES: dict[str, tuple[float, float]] = {"float32": (1e-4, 1e-3), "float16": (1e-2, 1e-2)}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        file: Where it is.
        bytes: Its size.
        weight_bytes: How many of them are the network's weights.
        whitening_bytes: How many of them are the whitening matrix and the mean image.
        other_bytes: The rest: graph, labels, provenance.
        largest_difference: Between its probabilities and the model's, on the images of the check.
    """

    file: str
    bytes: int
    weight_bytes: int
    whitening_bytes: int
    other_bytes: int
    largest_difference: float


_Made: TypeAlias = tuple[bytes, int, Run]  # content, how much of it is whitening, how to run it


def export_model(
    model: AllCNN, path: str | Path, *, whitened: bool = False, whitening: Whitening = "float32"
) -> Exported:
    """Write a model, preprocessing included, as one file for another runtime.

    The file is run and compared with the model before it is written.

    Args:
        model: A network with weights, from `create_model` or `load`.
        path: Where to; its suffix names the format: ``.onnx``, or ``.pt2`` for `torch.export`.
        whitened: Add a second output ``whitened``, float32 (N, 3, 32, 32): what the network sees.
        whitening: How ``.onnx`` stores the whitening matrix; see `to_onnx`.

    Returns:
        Sizes, and the largest difference that was found.

    Raises:
        AllCNNZooError: The suffix is unknown, the model has no described weights, a package is
            missing, or the exported program does not agree with the model.
        OSError: The file cannot be written; nothing is left behind.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ExportError(
            f"{path}: no format has the suffix {path.suffix!r:.20}; choose {' or '.join(_FORMATS)}"
        )
    classifier = Classifier(model, engine="torch")
    with torch.autocast(model.classifier.weight.device.type, enabled=False):
        content, stored, run = _FORMATS[path.suffix](classifier, whitened, whitening)
        difference = _check(classifier, run, _TOLERANCES[whitening])
    write_atomically(path, content)
    weights = model.architecture.count_parameters() * _FLOAT32_BYTES
    return Exported(
        file=str(path),
        bytes=len(content),
        weight_bytes=weights,
        whitening_bytes=stored,
        other_bytes=len(content) - weights - stored,
        largest_difference=difference,
    )


def _as_onnx(classifier: Classifier, whitened: bool, whitening: Whitening) -> _Made:
    model = to_onnx(classifier.model, whitened=whitened, whitening=whitening)
    import_package("onnx").checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    onnxruntime = import_package("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    constants = model.graph.initializer
    stored = sum(len(each.raw_data) for each in constants if each.name.startswith("whitening."))
    return content, stored, lambda images: session.run(None, {INPUT: images})


class _Whole(nn.Module):
    """Preprocessing, network and softmax in one module."""

    def __init__(self, classifier: Classifier, whitened: bool) -> None:
        super().__init__()
        self.preprocess = classifier.model.preprocess
        self.network = fold_batch_norm(classifier.model)
        self.whitened = whitened

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = self.preprocess(images)
        probabilities = self.network(seen).softmax(dim=1)
        return (probabilities, seen) if self.whitened else (probabilities,)


def _as_pt2(classifier: Classifier, whitened: bool, whitening: Whitening) -> _Made:
    if whitening != "float32":
        raise ExportError(f"whitening={whitening!r:.20} is for .onnx only; leave it out for .pt2")
    example = torch.zeros(2, *IMAGE, dtype=torch.uint8)
    batch = {INPUT: {0: torch.export.Dim(BATCH)}}
    module = _Whole(classifier, whitened).cpu().eval().requires_grad_(False)
    # torch.export warns about any other layout.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=batch)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    file = io.BytesIO()
    facts = describe(classifier.weights)
    # The recorded figures do not hold for another preprocessing.
    if type(module.preprocess) is not Preprocessor:
        facts |= {"preprocessing": type(module.preprocess).__name__, "metrics": "{}"}
    torch.export.save(program, file, extra_files=facts)
    content = file.getvalue()
    loaded = torch.export.load(io.BytesIO(content)).module()

    def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        with torch.no_grad():
            return [output.numpy() for output in loaded(torch.from_numpy(images))]

    stored = sum(buffer.numel() for buffer in module.preprocess.buffers()) * _FLOAT32_BYTES
    return content, stored, run


_FORMATS = {".onnx": _as_onnx, ".pt2": _as_pt2}


def _check(classifier: Classifier, run: Run, tolerances: tuple[float, float]) -> float:
    """Run the exported program, alone and in batches; the largest difference of probabilities."""
    random = np.random.default_rng(0)
    constant, noisy = np.full((1, *IMAGE), 77), random.integers(0, 256, (2, *IMAGE))
    faint = random.integers(77, 79, (1, *IMAGE))
    smooth = random.integers(0, 256, (4, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    images = np.concatenate([constant, noisy, faint, smooth]).astype(np.uint8)
    seen = classifier.model.preprocess(torch.from_numpy(images)).cpu().numpy()
    expected = (classifier.predict_proba(images), seen)
    differences = np.zeros(2)
    for part in (slice(0, 1), slice(1, 2), slice(0, 3), slice(0, None)):
        for place, got in enumerate(run(images[part])):
            found = np.abs(got - expected[place][part]).max()
            differences[place] = np.maximum(differences[place], found)  # NaN stays
    for name, difference, tolerance in zip((OUTPUT, SEEN), differences, tolerances, strict=True):
        if not difference <= tolerance:
            raise ExportError(
                f"nothing was written: the exported program's output {name!r} differs from the"
                f" model's by {difference:.1g}, and {tolerance:.0e} is allowed"
            )
    return float(differences[0])
