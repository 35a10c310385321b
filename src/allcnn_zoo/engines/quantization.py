"""A network in int8: its weights per channel, its activations by what images make of them."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..images import to_batch
from ..onnx_graph import INPUT, import_package
from ..self_test import sample_images

if TYPE_CHECKING:
    from onnx import ModelProto

_BATCH = 32

# The first and the last convolution are a hundredth of the work. Left as they are, they halve the
# number of labels that change.
_LEFT_ALONE = ["conv1", "classifier"]


def shipped_calibration() -> npt.NDArray[np.uint8]:
    """128 training images of CIFAR-10 that come with the package, uint8 (128, 3, 32, 32)."""
    return sample_images()[0][:128]


def quantize(graph: "ModelProto", calibration: npt.NDArray[np.uint8] | None = None) -> "ModelProto":
    """The same graph, each inner convolution between a pair that quantises and one that undoes it.

    Both runtimes recognise the pairs and compute in int8.

    Args:
        graph: What `to_onnx` made of a model.
        calibration: uint8 (N, 3, 32, 32); those that come with the package if None.

    Raises:
        AllCNNZooError: A package is missing, or there are no images.
    """
    images = to_batch(shipped_calibration() if calibration is None else calibration)
    onnx_package, tool = import_package("onnx"), import_package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        tool.quantize_static(
            graph,
            path,
            _reader(tool, images.numpy()),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_LEFT_ALONE,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
        )
        quantized: ModelProto = onnx_package.load(path)
    return quantized


def _reader(tool: Any, images: npt.NDArray[np.uint8]) -> Any:
    """What the tool draws its batches from: it accepts only a subclass of its own."""
    batches = iter(np.array_split(images, -(-len(images) // _BATCH)))

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to prepare the graph, which ours does not need."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
