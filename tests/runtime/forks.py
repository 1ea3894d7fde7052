"""What a forked process says."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

_SECONDS = 60


def said_by_a_child(work: Callable[[], str]) -> str:
    """Fork, and return what ``work`` returns in the child, which ends without cleaning up."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it raised"
        try:
            said = work()
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], _SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as answer:
        said = answer.read()
    status = os.waitpid(child, 0)[1]
    assert ready, f"the child said nothing in {_SECONDS} s"
    assert status == 0
    return said
