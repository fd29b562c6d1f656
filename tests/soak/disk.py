"""The small disk of the store: a tmpfs that can be filled by others and made read-only.

Where nothing may be mounted it is a plain folder, and these two faults are left out.
"""

import errno
import os
import subprocess
from pathlib import Path

from lab.programs import need

#: What a foreign file leaves at most, in one go: a file system hands out whole pages.
STEP = 1 << 20


class Disk:
    """The folder `root`, on a file system of its own where that is possible."""

    def __init__(self, root: Path, size: int, *, mounts: bool) -> None:
        """`mounts`: this process has a mount namespace of its own and may mount."""
        root.mkdir(mode=0o700)
        self.root = root
        self.mounted = mounts and _mount("-t", "tmpfs", "-o", f"size={size},mode=700", "soak", str(root))
        self._foreign = root / "foreign"

    def fill(self) -> None:
        """Somebody else takes all that is left."""
        fd = os.open(self._foreign, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            step, size = STEP, os.fstat(fd).st_size
            while step:
                try:
                    os.posix_fallocate(fd, size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step = step // 2 if step > 1024 else 0
        finally:
            os.close(fd)

    def free(self) -> None:
        """The others delete what they wrote."""
        self._foreign.unlink(missing_ok=True)

    def read_only(self, wanted: bool) -> bool:
        """Nobody may have a file open for writing. Was it done?"""
        return _mount("-o", f"remount,{'ro' if wanted else 'rw'}", str(self.root))

    def close(self) -> bool:
        """Take it away. Had everybody let go of it?"""
        if not self.mounted:
            return True
        if _done("umount", str(self.root)):
            return True
        _done("umount", "--lazy", str(self.root))
        return False


def _mount(*arguments: str) -> bool:
    return _done("mount", *arguments)


def _done(program: str, *arguments: str) -> bool:
    return subprocess.run([need(program), *arguments], check=False, capture_output=True).returncode == 0
