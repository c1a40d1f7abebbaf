"""Locks of the operating system: they end with their holder, however it ends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import filelock

from ..errors import CacheError

LOCKS = "locks"
#: The lock file of a directory's index; all others are named after keys.
INDEX_LOCK = "index.lock"


class OsLock:
    """A lock that processes and threads share by its path. One instance serves one thread, once at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(str(path), mode=0o600)

    def take(self, timeout: float) -> bool:
        """Whether the lock was got within ``timeout`` seconds; 0 tries once.

        Raises:
            CacheError: the file system gives no locks, or this thread holds the lock already.
        """
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock.acquire(timeout=timeout, poll_interval=0.005)
        except filelock.Timeout:
            return False
        except (OSError, NotImplementedError, RuntimeError) as error:
            raise CacheError(f"cannot lock {self.path} ({error})") from error
        return True

    def release(self, *, forget: bool = False) -> None:
        """Gives the lock back if it is held; ``forget`` also removes its file.

        Whoever has that file open meanwhile gets a lock that guards nothing, which filelock notices, and if it did not,
        one engine would be built twice.
        """
        if forget and self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):  # it ends with this process
            self._lock.release()
