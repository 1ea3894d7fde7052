"""The passes over a graph. Each is one function in one file; it returns a ``PassResult`` and changes nothing."""

from .fold_batchnorm import fold_batchnorm
from .fold_constants import fold_constants
from .fold_preprocessing import fold_preprocessing
from .result import PassResult, Skipped
from .split_sequences import split_sequences
from .to_fp16 import Fp16Options, to_fp16

__all__ = [
    "Fp16Options",
    "PassResult",
    "Skipped",
    "fold_batchnorm",
    "fold_constants",
    "fold_preprocessing",
    "split_sequences",
    "to_fp16",
]
