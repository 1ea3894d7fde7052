"""Makes torchvision importable beside a PyTorch of another build, for the tests: timm imports it.

Its wheel registers Python implementations for operators that its compiled part declares; where that part does not load
(beside the CPU build of PyTorch) they are declared here, without an implementation. No classifier calls them.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

_declared: torch.library.Library | None = None


def declare_torchvision_operators() -> None:
    """Once a process, and only where torchvision is there and does not import by itself."""
    global _declared
    spec = importlib.util.find_spec("torchvision")
    if _declared is not None or spec is None or spec.origin is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        pass
    else:
        return
    text = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(set(re.findall(r'(?:register_fake\("torchvision::|register_meta\(")(\w+)', text))):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor unused) -> Tensor")
    _declared = library
