"""Images in, labels and probabilities out."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.hub import tqdm  # type: ignore[attr-defined]  # or its stand-in, if not installed

from . import zoo
from .architecture import AllCNN
from .checkpoint import Metadata
from .errors import AllCNNZooError
from .images import ImageLike, ImagesLike, is_single, to_batch

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the classifier says of one image.

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


class Classifier:
    """A network together with its matching preprocessing and class names.

    Args:
        model: A network with weights, from `create_model` or `load`.
        device: Where to run it, such as ``"cuda"``; where the model is by default.
        batch_size: Images that go through the network at once.

    Raises:
        AllCNNZooError: The model carries no weights, or not as many class names as outputs; or
            PyTorch cannot use the device.
    """

    def __init__(
        self, model: AllCNN, *, device: str | torch.device | None = None, batch_size: int = 32
    ) -> None:
        if not isinstance(model.weights, Metadata):
            raise AllCNNZooError(
                "this network has no weights, so its labels would be noise; build it with"
                " pretrained=True or allcnn_zoo.load(file)"
            )
        if len(model.weights.classes) != model.architecture.num_classes:
            raise AllCNNZooError(
                f"the last convolution was replaced: {model.architecture.num_classes} outputs, but"
                f" names for {len(model.weights.classes)}; save the trained network with its own"
                " class names (allcnn_zoo.checkpoint.save) and load that"
            )
        if batch_size < 1:
            raise AllCNNZooError(f"batch_size={batch_size}: at least 1 is needed")
        self.model = model.eval() if device is None else _move(model.eval(), device)
        self.weights = model.weights
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "allcnn_c",
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> "Classifier":
        """A classifier from a network's name, a tag such as ``"neon_e350"``, or a weights file.

        Raises:
            AllCNNZooError: There is no such thing, or its weights cannot be had.
        """
        return cls(zoo.load(source, progress=progress), device=device, batch_size=batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.weights.classes

    @overload
    def __call__(  # type: ignore[overload-overlap]  # text is a sequence of texts
        self, images: "str | Path | PILImage", *, top_k: int = 5
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
        """Classify one image or several, of any usual kind and any size.

        Args:
            images: A path, a PIL image, a numpy uint8 array (H, W, 3), a torch uint8 tensor
                (3, H, W), or a sequence or batch of these. Other sizes than 32x32 are cropped to
                the centre square and resized.
            top_k: How many classes `Prediction.top` lists.

        Returns:
            One prediction for one image, a list for several.

        Raises:
            ImageError: Something is not an image, or a file cannot be read.
        """
        predictions = [self._describe(row, top_k) for row in self.predict_proba(to_batch(images))]
        return predictions[0] if is_single(images) else predictions

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
        """
        probabilities = np.empty((len(images), len(self.classes)), np.float32)
        visible = progress and sys.stderr.isatty()
        with tqdm(total=len(images), unit="image", disable=not visible, leave=False) as bar:
            for start in range(0, len(images), self.batch_size):
                batch = slice(start, start + self.batch_size)
                probabilities[batch] = self._probabilities(to_batch(images[batch]))
                bar.update(len(probabilities[batch]))
        return probabilities

    @torch.inference_mode()
    def _probabilities(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        batch = batch.to(self.model.classifier.weight.device)
        logits = self.model(self.model.preprocess(batch)).float() / self.weights.temperature
        return cast("npt.NDArray[np.float32]", logits.softmax(dim=1).cpu().numpy())

    def _describe(self, probabilities: npt.NDArray[np.float32], top_k: int) -> Prediction:
        best = probabilities.argsort()[::-1]
        return Prediction(
            label=self.classes[best[0]],
            index=int(best[0]),
            probability=float(probabilities[best[0]]),
            top=tuple((self.classes[i], float(probabilities[i])) for i in best[:top_k]),
        )


def _move(model: AllCNN, device: str | torch.device) -> AllCNN:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises depends on its build
        raise AllCNNZooError(f"cannot run on device {str(device)!r:.60}: {error}") from error
