"""``python -m resnet_runtime``: the same as ``resnet-run``."""

from .cli import main

main()
