"""Files that are visible whole or not at all, through every kind of death of the writer."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vltickets.errors import NoSpace

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the size a file may have


def write_file(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it into place.

    `content` is the bytes, or a function that writes them to the path it is given: large ones without a copy.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unused(path)
        try:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                content(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> bool:
    """Write a folder of files that appears whole; return False, and change nothing, where it already exists."""
    temporary = _unused(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        for name, content in files.items():
            write_file(temporary / name, content)
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
            return False
    finally:
        if temporary.exists():
            for file in temporary.iterdir():
                file.unlink()
            temporary.rmdir()
    _sync_folder(path.parent)
    return True


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the system's word for a full disk, while `path` is written, into `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoSpace(
            f"no room to write {path} ({error.strerror}); nothing half-written is left: free some space and give the "
            "same command again, it goes on"
        ) from None


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _unused(path: Path) -> Path:
    """Return a hidden name beside the path that no other writer has (not `tempfile`'s: those ignore the umask)."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sync_folder(folder: Path) -> None:
    """Flush the folder's own entry, without which a rename may be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
