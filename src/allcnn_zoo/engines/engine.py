"""What an engine is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..machine import PRECISIONS as PRECISIONS
from ..machine import Precision as Precision


class Engine(Protocol):
    """A network with its preprocessing and its softmax, ready to run.

    Attributes:
        precision: What it computes in, never ``"auto"``.
    """

    precision: str

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities (N, classes) of a micro-batch of uint8 images (N, 3, 32, 32).

        An array is in C order and writeable.
        """
