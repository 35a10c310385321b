"""Names that people type, and what to say when there is no such thing."""

import difflib
from collections.abc import Iterable

from .errors import UnknownNameError


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
