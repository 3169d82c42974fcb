"""One writer per dataset."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError


class DatasetLock:
    """Holds ``.lock`` of a dataset until ``release``; the system releases it when the process ends, however it ends.

    The file stays: it says who holds the lock, and removing it would let two writers lock two files of that name.
    """

    def __init__(self, root: Path) -> None:
        """Take the lock of an existing folder.

        Raises:
            DatasetError: another process (or another writer of this one) has it, or the folder cannot be written to.
        """
        path = root / paths.LOCK
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unwritable(root, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._descriptor), path.stat()):
                os.close(self._descriptor)
                raise DatasetError(f"{root}: expected the dataset to stay, found it replaced meanwhile: try again")
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _holder(), 0)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DatasetError(
                    f"{root}: expected no other writer, found {_read_holder(path)}: stop it, or record elsewhere and "
                    "join the two with `groot-ros dataset merge`"
                ) from error
            raise unwritable(root, error) from error

    def release(self) -> None:
        """Let others write. Twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> DatasetLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def unwritable(path: Path, error: OSError) -> DatasetError:
    """Why nothing can be written there, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatasetError(f"{path}: expected space to write, found a full disk: free some, nothing recorded is lost")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DatasetError(
            f"{path}: expected a folder to write to, found it read-only ({error.strerror}): change its permissions, or "
            "record into another folder"
        )
    return DatasetError(f"{path}: cannot be written to: {error.strerror or error}: check the disk")


def is_locked(path: Path) -> bool:
    """A process that runs holds a lock on this file. Raises: OSError."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: another who looks is no writer
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return True
            raise
    return False


def _holder() -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode()


def _read_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']} writing since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        # The other one has the lock and has not yet written who it is.
        return "a process that has just begun to write"
