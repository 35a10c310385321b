"""A progress bar with speed and ETA, on a terminal only."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm
    from typing_extensions import Self


class Progress:
    """How far a transfer is; silent unless asked for and stderr is a terminal.

    Args:
        label: What is being transferred.
        wanted: Whether to show anything at all.
    """

    def __init__(self, label: str, *, wanted: bool) -> None:
        visible = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._bar = _bar(label) if visible else None

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int | None) -> None:
        """Show `done` bytes of `total`; `done` goes back when a transfer starts over."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)


def _bar(label: str) -> "tqdm[NoReturn] | None":
    try:
        from tqdm import tqdm  # only where there is somebody to look at it
    except ImportError:  # a bare checkout, used through torch.hub, may lack this nicety
        return None
    return tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024)
