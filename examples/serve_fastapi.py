"""An HTTP service of one bundle: BUNDLE=model.bundle uvicorn --app-dir examples serve_fastapi:app

    curl --data-binary @cat.jpg localhost:8000/classify

One process is one model; on SIGTERM uvicorn accepts nothing more and finishes what it has, and then the batcher does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response

import resnet_runtime
from resnet_runtime import DeadlineError, ImageError, InputError, QueueFullError

SECONDS = 5.0
"""From an image that was made ready to its answer, or the request is refused."""
LARGEST = 20 * 2**20
"""Bytes of an image."""


def app_of(bundle: str) -> FastAPI:
    """The service; the bundle is loaded when it starts."""

    @asynccontextmanager
    async def running(service: FastAPI) -> AsyncIterator[None]:
        with (
            resnet_runtime.load(bundle, intent="throughput") as session,
            resnet_runtime.Batcher(session) as batcher,
        ):
            service.state.session, service.state.batcher = session, batcher
            yield

    service = FastAPI(lifespan=running)

    @service.post("/classify")
    async def classify(request: Request) -> dict[str, object]:
        session, batcher = service.state.session, service.state.batcher
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > LARGEST:
                raise HTTPException(413, f"an image has at most {LARGEST} bytes")
        try:
            (image,) = await asyncio.to_thread(session.preprocess, [bytes(data)])
            answer = await batcher.infer_async(image, timeout_s=SECONDS)
        except (ImageError, InputError) as error:
            raise HTTPException(422, error.message) from None
        except QueueFullError as error:
            raise HTTPException(503, error.message, headers={"Retry-After": "1"}) from None
        except DeadlineError as error:
            raise HTTPException(504, error.message) from None
        logits = answer[session.signature.outputs[0].name]
        shares = np.exp(logits - logits.max())
        best = int(logits.argmax())
        label = str(best) if session.labels is None else session.labels[best]
        return {"class": best, "label": label, "share": float(shares[best] / shares.sum())}

    @service.get("/metrics")
    def metrics() -> Response:
        text = service.state.batcher.counters().prometheus_text()
        return Response(text, media_type="text/plain; version=0.0.4")

    return service


if "BUNDLE" in os.environ:
    app = app_of(os.environ["BUNDLE"])
