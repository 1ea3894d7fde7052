"""Many threads, one model: each has its own answer, and the model full batches.

python examples/embed.py BUNDLE IMAGE...

What stands between the two lines of dashes is what the README shows.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor


def classes(bundle: str, paths: list[str]) -> list[int]:
    """The number of the best class of each image."""
    # ---
    import resnet_runtime

    with (
        resnet_runtime.load(bundle, intent="throughput") as session,
        resnet_runtime.Batcher(session, max_delay_ms=2, max_queue=1024) as batcher,
    ):

        def answer(path: str) -> int:  # called by any number of threads
            image = session.preprocess([path])[0]
            return int(batcher.submit(image, timeout_s=5).result()["logits"].argmax())

        with ThreadPoolExecutor(64) as clients:
            return list(clients.map(answer, paths))
    # ---


if __name__ == "__main__":
    from resnet_runtime import ResnetRuntimeError

    try:
        for path, number in zip(sys.argv[2:], classes(sys.argv[1], sys.argv[2:]), strict=True):
            print(f"{path}\t{number}")
    except ResnetRuntimeError as error:
        sys.exit(f"Error: {error}")
