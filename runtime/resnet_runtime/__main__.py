"""``python -m resnet_runtime``: the same as ``resnet-run``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
