"""Foreign values in error messages: see `allcnn_zoo.errors`."""

from ..errors import printable as show_path
from ..errors import quote

__all__ = ["quote", "show_path"]
