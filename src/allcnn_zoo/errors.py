"""One family of exceptions: everything this package raises on purpose is an `AllCNNZooError`.

A message says what happened, where, and the command or argument that fixes it. Every class keeps
its message as its only constructor argument, so instances can be pickled and cross processes.
"""

import difflib
from collections.abc import Iterable


class AllCNNZooError(Exception):
    """Base class of every error that allcnn_zoo raises on purpose."""


class UnknownNameError(AllCNNZooError, LookupError):
    """No model, set of weights, recipe, layer, class or the like has this name or number."""


class ArchitectureError(AllCNNZooError, ValueError):
    """A network cannot be built from these arguments."""


class ImageError(AllCNNZooError, ValueError):
    """An input is not an image, or not a batch of images, of a kind that is understood."""


class CheckpointError(AllCNNZooError, ValueError):
    """A file is not a weights or statistics file of ours, or does not fit what it claims."""


class DatasetError(AllCNNZooError):
    """CIFAR-10 is missing, incomplete or damaged, or labels are not those of the classes."""


class NeonError(AllCNNZooError, ValueError):
    """A legacy neon file cannot be used."""


class UnsafePickleError(NeonError):
    """A pickle contains something outside the closed world of arrays and plain containers.

    Also raised for files that are not a single complete pickle: nothing in them was executed.
    """


class NotAllCNNError(NeonError):
    """A sound neon file, but of another network than the one asked for."""


class HubError(AllCNNZooError):
    """Weights or data could not be had from the cache or the network."""


class OfflineError(HubError):
    """The network was needed, and ``ALLCNN_ZOO_OFFLINE`` forbids it."""


class DownloadError(HubError):
    """No source delivered the file; the message lists each URL with its reason."""


class ResourceError(HubError, ValueError):
    """The key, digest or size of a published file is not of the form that it must have."""


class IntegrityError(HubError):
    """Bytes arrived, or were cached, that are not the expected ones."""


class CacheError(HubError):
    """The cache directory cannot be used: permissions, space, or something in the way."""


class TrainingError(AllCNNZooError):
    """Training cannot start or go on."""


class ExportError(AllCNNZooError):
    """A model cannot be exported, or what was exported does not agree with it."""


class LostProcessError(AllCNNZooError):
    """One of several processes that work together was killed, or failed."""


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not among those known, and suggest the closest.

    Raises:
        UnknownNameError: No `what` is called `name`.
    """
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
        raise UnknownNameError(f"no {what} is called {name!r:.80}; {hint}")
