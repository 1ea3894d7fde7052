"""What a forked process says."""

from __future__ import annotations

import os
from collections.abc import Callable


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
    with os.fdopen(reader) as answer:
        said = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return said
