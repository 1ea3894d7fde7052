"""A checkpoint file, read without running the code that it may hold."""

from .reading import checkpoint_from_file
from .record import Checkpoint

__all__ = ["Checkpoint", "checkpoint_from_file"]
