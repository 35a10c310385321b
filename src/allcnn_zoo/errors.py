"""One family of exceptions: everything this package raises on purpose is an `AllCNNZooError`.

A message tells what happened, where, and which command or argument fixes it. The message is the
only constructor argument of every class, so errors can be pickled.

Text from a file, a file name or a server may contain anything. Messages show it by `quote` or
`printable`.
"""

from collections.abc import Iterable

_LONGEST_VALUE, _LONGEST_LINE, _LONGEST_MESSAGE = 60, 1000, 10_000


class AllCNNZooError(Exception):
    """Base class of every error that allcnn_zoo raises on purpose.

    As a last guard, control characters are escaped, and the length is limited.
    """

    def __init__(self, message: object = "") -> None:
        lines = str(message)[:_LONGEST_MESSAGE].split("\n")
        super().__init__("\n".join(printable(line, _LONGEST_MESSAGE) for line in lines))


class UnknownNameError(AllCNNZooError, LookupError):
    """There is no model, set of weights, recipe, layer or class of this name or number."""


class ArchitectureError(AllCNNZooError, ValueError):
    """A network cannot be built from these arguments."""


class ImageError(AllCNNZooError, ValueError):
    """An input is not an image or batch of images, or not of a supported kind."""


class CheckpointError(AllCNNZooError, ValueError):
    """A file is not a weights or statistics file of this package, or contradicts its header."""


class DatasetError(AllCNNZooError):
    """A data set is missing, incomplete or damaged, or a label is not one of the classes."""


class NeonError(AllCNNZooError, ValueError):
    """A legacy neon file cannot be used."""


class UnsafePickleError(NeonError):
    """A pickle contains something outside the closed world of arrays and plain containers.

    Also raised for files that are not a single complete pickle: nothing in them was executed.
    """


class NotAllCNNError(NeonError):
    """A sound neon file, but of another network than the one asked for."""


class HubError(AllCNNZooError):
    """Weights or data are neither in the cache nor available from the network."""


class OfflineError(HubError):
    """A download is needed, but ``ALLCNN_ZOO_OFFLINE`` forbids it."""


class DownloadError(HubError):
    """No source delivered the file; the message lists each URL with its reason."""


class ResourceError(HubError, ValueError):
    """The key, address, digest or size of a published file is malformed."""


class IntegrityError(HubError):
    """Downloaded or cached bytes differ from the expected ones."""


class CacheError(HubError):
    """The cache directory cannot be used: permissions, space, or something in the way."""


class TrainingError(AllCNNZooError):
    """Training cannot start or continue."""


class ExportError(AllCNNZooError):
    """A model cannot be exported, or the exported file does not agree with it."""


class LostProcessError(AllCNNZooError):
    """One of several cooperating processes was killed or failed."""


def printable(text: object, longest: int = _LONGEST_LINE) -> str:
    r"""One line of text, cut to a length, with control characters escaped.

    For names of files. Escape codes, line breaks, marks that reverse the direction of writing and
    lone surrogates become ``\x1b``, ``\n`` and so on.
    """
    text = str(text)
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def quote(value: object) -> str:
    """Any value from a file as one short line of printable ASCII.

    Returns:
        The value itself if it is a short scalar, else its beginning, or its kind and size.
    """
    if isinstance(value, str | bytes):
        whole = len(value) <= _LONGEST_VALUE
        return ascii(value) if whole else f"{value[:_LONGEST_VALUE]!a}... ({len(value)} long)"
    if value is None or isinstance(value, bool | int | float):
        return printable(repr(value), _LONGEST_VALUE)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Refuse an unknown name, and suggest the closest known one.

    Raises:
        UnknownNameError: No `what` is called `name`.
    """
    known = list(known)
    if name not in known:
        import difflib  # only for this message, and slow to import

        # Case first: to difflib, "ALLCNN_C" and "allcnn_c" have nothing in common.
        folded = {each.casefold(): each for each in known}
        close = difflib.get_close_matches(str(name).casefold()[:80], folded, n=1)
        near = f"did you mean {folded[close[0]]!r}?" if close else ""
        raise UnknownNameError(
            f"no {what} is called {name!r:.80}; {near or 'choose from ' + ', '.join(sorted(known))}"
        )
