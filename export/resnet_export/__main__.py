"""``python -m resnet_export``: the same as ``resnet-export``."""

from .cli import main

if __name__ == "__main__":
    main()
