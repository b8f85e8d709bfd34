"""The bond of a child process to its parent: it dies when the parent does, even by SIGKILL.

The kernel is asked to send the signal (Linux), and a thread waits for the end of stdin, a pipe whose
other end only the parent holds (any Unix). Both, because the first is missed by a child whose parent
died before it asked, and the second by one whose interpreter hangs.

A program that is not ours is bound by `python -m regions.runtime.parent PROGRAM ARGUMENT...`, which asks
and then becomes the program. It has no thread that waits: where the kernel knows no such request, that
program outlives a parent that is killed.
"""

import os
import signal
import sys
import threading
from collections.abc import MutableMapping
from typing import Final

PARENT_VARIABLE: Final = "MERIDIAN_PARENT_PID"
"""Names the process whose end is ours; set by `children`, taken away by `bind_to_parent`."""

_PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>


def bind_to_parent(env: MutableMapping[str, str]) -> None:
    """End this process when the parent named in `env` ends; without one, do nothing."""
    expected = env.pop(PARENT_VARIABLE, None)
    if expected is None:
        return
    if sys.platform == "linux":
        import ctypes  # only children pay for it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(expected):  # it died before we asked
        os._exit(1)
    threading.Thread(target=_exit_at_end_of_stdin, name="parent-watch", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Become the program that the arguments name, bound to the parent."""
    bind_to_parent(os.environ)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program is the caller's, and there is no shell


if __name__ == "__main__":
    main()
