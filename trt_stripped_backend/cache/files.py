"""Files and directories that only their owner can have written: a plan is code."""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import BadEntry, CacheError

DIGEST = re.compile(r"[0-9a-f]{64}")
ENTRY_NAME = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})\.entry")
TEMPORARY = "tmp"

_POSIX = os.name == "posix"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
#: Without O_NONBLOCK a planted FIFO would hold up the open for ever.
_FLAGS = _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
WAY_OUT = "choose a directory of your own with TRT_STRIPPED_CACHE_DIR or options={'cache_dir': …}"


def entry_name(digest: str) -> str:
    """Where an entry lies, relative to its cache directory.

    Raises:
        ValueError: not a SHA-256 in lower-case hexadecimal.
    """
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"a cache key is a SHA-256 in lower-case hexadecimal, not {digest!r}")
    return f"{digest[:2]}/{digest}.entry"


def distrust(info: os.stat_result) -> str:
    """Why what ``info`` describes may hold another user's bytes; ``""`` if it may not. Root is trusted anyway."""
    if not _POSIX:
        return ""
    if info.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {info.st_uid}"
    return "others may write to it" if info.st_mode & 0o022 else ""


def examine_directory(path: Path) -> bool:
    """Whether an existing cache directory can be written.

    Raises:
        CacheError: it must not be used: a link, not a directory, another user's, or writable by others.
    """
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise CacheError(f"cache directory {path} is a symbolic link, which is not followed: name {path.resolve()}")
    if not stat.S_ISDIR(info.st_mode):
        raise CacheError(f"cache directory {path} is not a directory: {WAY_OUT}")
    if os.path.expandvars(path) != str(path):
        raise CacheError(f"cache directory {path} names a variable, which diskcache would expand: {WAY_OUT}")
    reason = distrust(info)
    if reason:
        cure = f"run chmod go-w {path}" if info.st_uid == os.geteuid() else WAY_OUT
        if info.st_mode & stat.S_ISVTX:  # /tmp and its like are for everyone
            cure = f"name a directory inside, such as {path / 'trt_stripped'}"
        raise CacheError(f"cache directory {path} is not safe, since a plan is code and {reason}: {cure}")
    return os.access(path, os.R_OK | os.W_OK | os.X_OK)


def open_private(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Opens a regular file that only this user or root can have written; links are not followed.

    Raises:
        BadEntry: it is something else.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise BadEntry(f"{path} is not used: it is a symbolic link") from error
        raise
    info = os.fstat(descriptor)
    reason = distrust(info) if stat.S_ISREG(info.st_mode) else "it is not a regular file"
    if reason:
        os.close(descriptor)
        raise BadEntry(f"{path} is not used: {reason}")
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "r+b")


def write_private(root: Path, name: str, data: bytes) -> None:
    """Puts ``data`` at ``root/name``, all or nothing, mode 0600: a synced temporary file, then a rename.

    The modification time is when the entry was last used; the kernel's own would be too coarse to order two writes.

    Raises:
        OSError: the disk is full, read-only, …; then nothing is left behind.
    """
    path, temporary = root / name, root / TEMPORARY / secrets.token_hex(16)
    temporary.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        write_new(temporary, [data], mode=0o600)
        touch(temporary)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sync_directory(root)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file of the user's, all or nothing: a synced temporary file beside it, then a rename.

    A link stays one, and what it leads to is written. A pipe or device cannot be replaced, so it is written as it is.

    Raises:
        OSError: the disk is full, the folder is missing, …; then nothing is left behind.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.writelines(parts)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_new(temporary, parts, mode=0o666)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, parts: Iterable[bytes], *, mode: int) -> None:
    """Writes a file that does not exist yet, and waits until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def touch(path: Path) -> None:
    """Marks a file as used now."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def sync_directory(path: Path) -> None:
    """Waits until the disk knows the names in a directory."""
    if not _POSIX:
        return
    descriptor = os.open(path, os.O_RDONLY)
    # Some file systems cannot sync a directory; then a power cut may lose the entry, which is a miss.
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
