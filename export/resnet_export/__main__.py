"""``python -m resnet_export``: the same as ``resnet-export``."""

from .cli import main

main()
