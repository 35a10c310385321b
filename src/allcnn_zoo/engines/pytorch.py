"""What an engine is, and PyTorch itself as one: on any device, nothing to install."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import AllCNNZooError
from ..machine import is_forked
from ..model import AllCNN
from ..preprocessing import Preprocessor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass
class Engine:
    """A network with its preprocessing and its softmax, ready to run.

    Attributes:
        name: One of `ENGINES`, never ``"auto"``.
        precision: What it computes in, never ``"auto"``.
        run: From a micro-batch of uint8 images (N, 3, 32, 32), a tensor or an array in C order and
            writeable, to float32 probabilities (N, classes).
    """

    name: str
    precision: str
    run: Callable[[Any], npt.NDArray[np.float32]]


def open_torch(
    model: AllCNN, precision: str, device: torch.device, threads: int | None, most_threads: int
) -> Engine:
    """The model in PyTorch, channels last, in the wanted precision.

    The arguments are those of `open_engine`, and how many threads there may be at all.

    Raises:
        AllCNNZooError: PyTorch cannot use the device, or not this precision.
    """
    if precision not in _DTYPES:
        raise AllCNNZooError(
            f"engine='torch' computes in {' or '.join(_DTYPES)}, not in {precision};"
            " engine='openvino' and engine='onnxruntime' do"
        )
    dtype = _DTYPES[precision]
    try:
        preprocess = _preprocessing(model, device)
        first = model.classifier.weight
        if (first.device, first.dtype) != (device, dtype):
            model = copy.deepcopy(model).to(device, dtype)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises depends on its build
        raise AllCNNZooError(f"cannot run on device {str(device)!r:.60}: {error}") from error
    model.eval().requires_grad_(requires_grad=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: Tensor | npt.NDArray[np.uint8]) -> Any:
        most = 1 if is_forked() else most_threads
        with (
            using_threads(min(threads or torch.get_num_threads(), most)),
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),  # the precision is ours to choose
        ):
            # Whitening stays in float32: it amplifies rounding, and costs little.
            whitened = preprocess(torch.as_tensor(images).to(device, non_blocking=True))
            logits = model(whitened.to(dtype, memory_format=torch.channels_last)).float()
            return logits.softmax(dim=1).cpu().numpy()

    return Engine("torch", precision, run)


def _preprocessing(model: AllCNN, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model's preprocessing on a device."""
    preprocess = model.preprocess
    if model.classifier.weight.device != device:
        preprocess = copy.deepcopy(preprocess).to(device)
    if (
        type(preprocess) is not Preprocessor  # a subclass may compute something else
        or device.type != "cpu"
        or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    ):
        return preprocess
    # PyTorch gives float32 products to MKL, which on processors of other makers than Intel takes
    # two to four times as long as oneDNN.
    normalize = preprocess.normalize
    matrix = preprocess.matrix.to_mkldnn()  # symmetric, so it is its own transpose

    def whiten(images: Tensor) -> Tensor:
        whitened = torch.ops.aten.mkldnn_linear(normalize(images).to_mkldnn(), matrix)
        return whitened.to_dense().view(images.shape)  # type: ignore[no-any-return]

    return whiten


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """With so many of PyTorch's threads for what is called from here."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)
