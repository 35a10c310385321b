"""Images in, labels and probabilities out."""

import contextlib
import copy
import dataclasses
import functools
import html
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.hub import tqdm  # type: ignore[attr-defined]  # or its stand-in, if not installed

from . import zoo
from .engines import EngineName, Precision, open_engine
from .errors import AllCNNZooError, CheckpointError, ImageError, printable
from .images import ImageLike, ImagesLike, is_ready, is_single, to_batch
from .model import AllCNN, metadata_of


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The classes of one image, most probable first.

    Attributes:
        label: Name of the most probable class.
        index: Its number.
        probability: Its probability, 0...1.
        top: The most probable classes with their probabilities, best first.
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return f"{self.label} ({self.probability:.1%})"

    def _repr_html_(self) -> str:
        """A table with bars, for notebooks; readable where a viewer strips the styles."""
        bar = "height:.7em;min-width:2px;border-radius:.2em;background:#0969da"
        rows = (
            f'<tr><td style="text-align:left">{html.escape(name)}</td>'
            f'<td style="width:12em"><div style="{bar};width:{probability:.1%}"></div></td>'
            f"<td>{probability:.1%}</td></tr>"
            for name, probability in self.top
        )
        return f"<table>{''.join(rows)}</table>"


class Classifier:
    """A network together with its matching preprocessing and class names.

    It copies the network and runs it in micro-batches, so memory does not grow with the number of
    images.

    Args:
        model: A network with weights, from `create_model` or `load`.
        device: Where to run it, for example ``"cuda"``; the model's device by default.
        batch_size: Images per micro-batch. Small ones fit a CPU's caches; an accelerator needs
            several hundred.
        precision: ``"float32"``; ``"bfloat16"``; ``"auto"``, which is bfloat16 where the processor
            has it and float32 elsewhere; or ``"int8"``, with OpenVINO and ONNX Runtime.
        engine: ``"torch"``; ``"openvino"`` or ``"onnxruntime"``, if they are installed; or
            ``"auto"``, the fastest of these that is installed and can run this model in this
            precision on this device.
        threads: CPU threads, by default as many as PyTorch uses, and at most as many as this
            process may use.
        calibration: uint8 images (N, 3, 32, 32) for measuring the ranges of int8 activations; 128
            of CIFAR-10's training images by default.

    Raises:
        AllCNNZooError: The model has no described weights, or not as many class names as outputs;
            or the device, the engine or its precision is unavailable.
    """

    def __init__(
        self,
        model: AllCNN,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        precision: Precision = "float32",
        engine: EngineName = "auto",
        threads: int | None = None,
        calibration: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and value < 1:
                raise AllCNNZooError(f"{name}={value}: at least 1 is needed")
        self.weights = metadata_of(model)
        self.model = model = copy.deepcopy(model).eval()
        self.batch_size = batch_size
        self._open_engine = functools.partial(
            open_engine,
            model,
            engine,
            precision=precision,
            device=device,
            threads=threads,
            batch_size=batch_size,
            calibration=calibration,
        )
        self._engine = self._open_engine()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "allcnn_c",
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        precision: Precision = "float32",
        engine: EngineName = "auto",
        threads: int | None = None,
        calibration: npt.NDArray[np.uint8] | None = None,
        progress: bool = True,
    ) -> "Classifier":
        """Create a classifier from a network's name, a tag like ``"neon_e350"``, or a weights file.

        Raises:
            AllCNNZooError: There is no such network, tag or file, or no source delivers it.
        """
        return cls(
            zoo.load(source, progress=progress),
            device=device,
            batch_size=batch_size,
            precision=precision,
            engine=engine,
            threads=threads,
            calibration=calibration,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.weights.classes

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions; never ``"auto"``."""
        return self._engine.precision

    @property
    def engine(self) -> str:
        """What runs the network: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``."""
        return self._engine.name

    def __repr__(self) -> str:
        tag = printable(self.weights.tag, 80)
        return f"<Classifier {tag}: {len(self.classes)} classes, {self.engine}, {self.precision}>"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # text is a sequence of texts
        self, images: str | Path | bytes | BinaryIO | Image.Image, *, top_k: int = 5
    ) -> Prediction: ...
    @overload
    def __call__(self, images: Sequence[ImageLike], *, top_k: int = 5) -> list[Prediction]: ...
    @overload
    def __call__(
        self, images: npt.NDArray[np.uint8] | torch.Tensor, *, top_k: int = 5
    ) -> Prediction | list[Prediction]: ...
    def __call__(
        self, images: ImageLike | ImagesLike, *, top_k: int = 5
    ) -> Prediction | list[Prediction]:
        """Classify one or several images of any usual kind and size.

        Args:
            images: A path, the bytes of a file, an open binary file, a PIL image, a numpy uint8
                array (H, W, 3), a torch uint8 tensor (3, H, W), or a sequence or batch of these.
                Other sizes than 32x32 are cropped to the center square and resized.
            top_k: How many classes `Prediction.top` lists.

        Returns:
            One prediction for one image, a list for several.

        Raises:
            ImageError: Something is not an image, or a file cannot be read.
        """
        is_batch = isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4
        # Large images are resized one micro-batch at a time.
        batch = cast("torch.Tensor", images) if is_batch else to_batch(images)
        predictions = [self._describe(row, top_k) for row in self.predict_proba(batch)]
        return predictions[0] if is_single(images) else predictions

    def stream(self, images: Iterable[ImageLike], *, top_k: int = 5) -> Iterator[Prediction]:
        """Classify images as they arrive, from any iterable, also an endless one.

        A micro-batch of images is taken at a time, from a generator that yields paths, for example.
        Images, predictions and errors are those of `__call__`.
        """
        if is_single(cast("ImagesLike", images)):
            raise ImageError("a stream has several images; call the classifier itself for one")
        iterator = iter(images)
        while group := list(itertools.islice(iterator, self.batch_size)):
            for row in self._run(to_batch(group)):
                yield self._describe(row, top_k)

    def predict_proba(
        self, images: npt.NDArray[np.uint8] | torch.Tensor, *, progress: bool = False
    ) -> npt.NDArray[np.float32]:
        """Class probabilities of many images.

        Args:
            images: uint8 batch, (N, 3, H, W) or (N, H, W, 3), on any device; may be empty.
            progress: Show a bar, if standard error is a terminal.

        Returns:
            float32 (N, classes); each row sums to 1.

        Raises:
            ImageError: `images` is something else.
            CheckpointError: The weights are so large that activations overflow.
        """
        if not isinstance(images, (np.ndarray, torch.Tensor)) or images.ndim != 4:
            what = getattr(images, "shape", None) or type(images).__name__
            raise ImageError(
                f"{what} is not a batch, uint8 (N, 3, H, W) or (N, H, W, 3); call the classifier"
                " itself for other images"
            )
        probabilities = np.empty((len(images), len(self.classes)), np.float32)
        # For one image, a hidden bar would take longer than everything else here.
        visible = progress and sys.stderr.isatty()
        shown = tqdm(total=len(images), unit="image", leave=False) if visible else None
        with shown or contextlib.nullcontext():
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                # A runtime's weights push PyTorch's code out of the caches, so wrapping one image
                # takes a tenth as long as the network.
                found = self._run(part if is_ready(part) else to_batch(part))
                probabilities[start : start + self.batch_size] = found
                if shown:
                    shown.update(len(part))
        return probabilities

    def _run(self, batch: npt.NDArray[np.uint8] | torch.Tensor) -> npt.NDArray[np.float32]:
        """Probabilities of a micro-batch; a `CheckpointError` if activations overflow."""
        probabilities = self._engine.run(batch)
        if not probabilities.sum() >= len(probabilities) / 2:  # NaN, or 0 of some runtimes
            raise CheckpointError(
                f"the weights {printable(self.weights.tag)} are too large: activations overflow, so"
                " there are no probabilities; load other weights"
            )
        return probabilities

    def _describe(self, probabilities: npt.NDArray[np.float32], top_k: int) -> Prediction:
        best = (-probabilities).argsort(kind="stable")  # for equal values the first, like argmax
        return Prediction(
            label=self.classes[best[0]],
            index=int(best[0]),
            probability=float(probabilities[best[0]]),
            top=tuple((self.classes[i], float(probabilities[i])) for i in best[:top_k]),
        )

    def __getstate__(self) -> dict[str, object]:
        # Compiled graphs cannot be pickled: the copy compiles again.
        return {key: value for key, value in self.__dict__.items() if key != "_engine"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._engine = self._open_engine()
