"""What an engine is, and PyTorch itself as one: on any device, nothing to install."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import AllCNNZooError
from ..machine import is_forked
from ..model import AllCNN
from ..preprocessing import Preprocessor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine(Protocol):
    """A network with its preprocessing and its softmax, ready to run.

    Attributes:
        name: One of `ENGINES`, never ``"auto"``.
        precision: What it computes in, never ``"auto"``.
    """

    name: str
    precision: str

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities (N, classes) of a micro-batch of uint8 images (N, 3, 32, 32).

        An array is in C order and writeable.
        """


class TorchEngine:
    """The model, channels last, in the wanted precision.

    Whitening stays in float32: it amplifies rounding, and costs little.

    The arguments are those of `open_engine`, and how many threads there may be at all.

    Raises:
        AllCNNZooError: PyTorch cannot use the device, or not this precision.
    """

    name = "torch"

    def __init__(
        self,
        model: AllCNN,
        precision: str,
        device: torch.device,
        threads: int | None,
        most_threads: int,
    ) -> None:
        if precision not in _DTYPES:
            raise AllCNNZooError(
                f"engine='torch' computes in {' or '.join(_DTYPES)}, not in {precision};"
                " engine='openvino' and engine='onnxruntime' do"
            )
        self.precision = precision
        self.device, self.threads, self.most_threads = device, threads, most_threads
        try:
            self.preprocess = _preprocessing(model, device)
            first = model.classifier.weight
            if (first.device, first.dtype) != (device, _DTYPES[precision]):
                model = copy.deepcopy(model).to(device, _DTYPES[precision])
            self.model = model
        except (RuntimeError, AssertionError) as error:  # what PyTorch raises depends on its build
            raise AllCNNZooError(f"cannot run on device {str(device)!r:.60}: {error}") from error
        self.model.eval().requires_grad_(requires_grad=False)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities (N, classes) of uint8 images (N, 3, 32, 32)."""
        most = 1 if is_forked() else self.most_threads
        with using_threads(min(self.threads or torch.get_num_threads(), most)):
            return self._probabilities(torch.as_tensor(images))

    @torch.inference_mode()
    def _probabilities(self, images: Tensor) -> npt.NDArray[np.float32]:
        with torch.autocast(self.device.type, enabled=False):  # the precision is ours to choose
            whitened = self.preprocess(images.to(self.device, non_blocking=True))
            logits = self.model(
                whitened.to(_DTYPES[self.precision], memory_format=torch.channels_last)
            ).float()
        probabilities = logits.softmax(dim=1).cpu().numpy()
        return cast("npt.NDArray[np.float32]", probabilities)


def _preprocessing(model: AllCNN, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model's preprocessing on a device."""
    preprocess = model.preprocess
    if model.classifier.weight.device != device:
        preprocess = copy.deepcopy(preprocess).to(device)
    if (
        type(preprocess) is Preprocessor  # a subclass may compute something else
        and device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    ):
        return _OneDNNWhitening(preprocess)
    return preprocess


class _OneDNNWhitening:
    """The preprocessor with its matrix product in oneDNN.

    PyTorch gives float32 products to MKL, which on processors of other makers than Intel takes two
    to four times as long.
    """

    def __init__(self, preprocess: Preprocessor) -> None:
        self.normalize = preprocess.normalize
        self.matrix = preprocess.matrix.to_mkldnn()  # symmetric, so it is its own transpose

    def __call__(self, images: Tensor) -> Tensor:
        rows = self.normalize(images).to_mkldnn()
        whitened: Tensor = torch.ops.aten.mkldnn_linear(rows, self.matrix).to_dense()
        return whitened.view(images.shape)


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
