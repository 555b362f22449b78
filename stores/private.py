"""Files and folders only their owner can open, whatever the umask.  (floor 4)

A mode given to `mkdir` or `open` is only a wish: the umask takes from it, and an umask of 0777
leaves a file its own maker cannot open. So the mode is set again after making. What exists
already is treated with care: a folder keeps the mode its owner gave it (STATE_DIR may be a
folder that others use too), a file of ours gets 0600 back. This does not make anything durable:
saves that must survive a power cut go through the `Disk` port.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make a folder, and every missing one above it, with mode 0700.

    Raises:
        OSError: it cannot be made, or something else stands in its place.
    """
    for path in (*reversed(folder.parents), folder):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except OSError:
            if path.is_dir():  # a root that cannot be written to answers EROFS, not EEXIST
                continue
            raise
        os.chmod(path, 0o700)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))


def private_file(path: Path) -> None:
    """Make an empty file with mode 0600, or give an existing one that mode.

    An existing file is never opened: closing any handle of a file drops all locks this process
    holds on it (POSIX), and SQLite's are among them.

    Raises:
        OSError: it cannot be made, or is not a plain file (a link could lead anywhere).
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path)) from None
    else:
        os.close(handle)
    os.chmod(path, 0o600)
