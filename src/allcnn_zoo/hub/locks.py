"""One worker at a time, as a courtesy: nothing here breaks when a lock lies or is refused."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_logger = logging.getLogger(__name__)


@contextmanager
def hold(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file `path` for a while; go on without it where it cannot be had.

    On file systems without locks, under permissions that forbid them, or when another process
    holds the lock for more than `timeout` seconds, the work inside is done twice at worst.
    """
    import filelock

    mode = path.parent.stat().st_mode & 0o666 | 0o600  # for all who may write in the folder
    lock = filelock.FileLock(path, timeout=timeout, mode=mode)
    try:
        lock.acquire()
    # Where a file system has no locks, filelock's older versions raise NotImplementedError.
    except (OSError, NotImplementedError) as error:
        _logger.info("going on without the lock %s: %s", path, error)
    try:
        yield
    finally:
        lock.release()
