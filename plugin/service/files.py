"""Writes files so that nobody ever finds half of one, and reads pipes with waits that a signal can end."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Milliseconds between checks whether a wait for a pipe's writer has to end.
_LOOK = 100


def read_file(name: str, most: int, is_told_to_end: Callable[[], bool]) -> tuple[bytes, bool]:
    """Read a file from its beginning, or a pipe until its last writer closes it.

    Args:
        name: the file.
        most: how many bytes to read at most.
        is_told_to_end: tells whether to stop waiting for a pipe's writer.

    Returns:
        The bytes, and whether the file is a regular file, which can be read again.

    Raises:
        OSError: the file can't be read; with EINTR, the wait for a pipe's writer had to end.
    """
    # Without O_NONBLOCK, open() itself would wait for a writer, and no signal would end that.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = bytearray()
        while len(data) < most and (piece := _next_piece(descriptor, most - len(data), is_told_to_end)):
            data += piece
        return bytes(data), stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    finally:
        os.close(descriptor)


def _next_piece(descriptor: int, most: int, is_told_to_end: Callable[[], bool]) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        # A pipe that nobody has opened to write yet seems to be at its end; poll() knows better.
        if poll.poll(_LOOK):
            with suppress(BlockingIOError):
                return os.read(descriptor, most)
        elif is_told_to_end():
            raise OSError(errno.EINTR, "a signal said to end before it was written")


def replace_file(name: str, data: bytes) -> None:
    """Write a file so that every reader finds either the old content or the new content.

    Raises:
        OSError: the file can't be written. Its old content stays.
    """
    found = None
    with suppress(FileNotFoundError):
        found = Path(name).stat()
    if found and not stat.S_ISREG(found.st_mode):  # a device or a pipe can't be replaced
        Path(name).write_bytes(data)
        return
    target = Path(os.path.realpath(name))
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if found:  # whoever could read the old file can read the new one
                with suppress(PermissionError):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.replace(target)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        # Name the file that the user named, not the temporary file beside it.
        raise OSError(error.errno, error.strerror, name) from None
