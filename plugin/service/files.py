"""Files that are written so that nobody finds half of one."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def replace_file(name: str, data: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new one.

    Raises:
        OSError: it can't be written. Then it is as it was.
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
            if found:  # who could read the old one can read the new one
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
        # The name that the user gave, not that of the file beside it.
        raise OSError(error.errno, error.strerror, name) from None
