"""Serve a renderer over HTTP: what the renderer ``images_api`` of other processes asks."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from grpo_mmpc import __version__
from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.pipelines.serve_completion import listening, say
from grpo_mmpc.rendering.images_api import KEY_VARIABLE, ROUTE
from grpo_mmpc.rendering.registry import load_renderer
from grpo_mmpc.rendering.renderer import Renderer, render
from grpo_mmpc.rollout.vllm.guard import Guard
from grpo_mmpc.rollout.vllm.serve import probe_port, server_key
from grpo_mmpc.utils.api_servers import png_base64
from grpo_mmpc.utils.batch_queue import BatchQueue, BusyError
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from fastapi import FastAPI
    from PIL.Image import Image

_DEFAULT_BATCH = 16
"""Prompts at a time for a renderer that names no batch size."""


class Generation(BaseModel):
    """A request of one image, with the fields of OpenAI's that a renderer can honour."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=20_000)
    seed: int = Field(ge=0, lt=2**63)
    model: str = ""
    n: Literal[1] = 1
    response_format: Literal["b64_json"] = "b64_json"


class EncodedImage(BaseModel):
    """An image as base64 of a PNG."""

    b64_json: str


class Images(BaseModel):
    """The answer to a request."""

    created: int = 0
    data: list[EncodedImage]


def serve_images(reference: str, kwargs: Mapping[str, Any], *, host: str = "127.0.0.1", port: int = 9000) -> NoReturn:
    """Render for other processes until this one is interrupted.

    Args:
        reference: A renderer, as ``load_renderer`` takes it.
        kwargs: Arguments of it.
        host: Interface to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        RolloutError: The port is taken.
        EvaluationError: The renderer cannot be loaded.
    """
    port, key = probe_port(host, port), server_key(KEY_VARIABLE)
    say(f"loading renderer {reference} ...")
    queue = rendering_queue(load_renderer(reference, **kwargs))
    app = Guard(application(queue), key=key, host=host, variable=KEY_VARIABLE)
    with listening(app, host=host, port=port):
        say(f"rendering on http://{host}:{port}{ROUTE}; Ctrl-C stops it. Only who has the key can use it:")
        say(f"  export {KEY_VARIABLE}={key}")
        queue.run()


def rendering_queue(renderer: Renderer) -> "BatchQueue[tuple[str, int], Image | Failure]":
    """Return the queue in which prompts and seeds of all clients wait for a renderer's batches."""

    def work(requests: Sequence[tuple[str, int]]) -> "list[Image | Failure]":
        prompts, seeds = [list(part) for part in zip(*requests, strict=True)]
        return render(renderer, prompts, seeds=seeds)

    return BatchQueue(work, batch_size=lambda: getattr(renderer, "batch_size", _DEFAULT_BATCH))


def application(queue: "BatchQueue[tuple[str, int], Image | Failure]") -> "FastAPI":
    """Return the application: ``/v1/images/generations``, ``/health``, ``/openapi.json``."""
    from fastapi import FastAPI, HTTPException  # heavy: imported on use

    app = FastAPI(title="grpo-mmpc: images", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/health", summary="Whether it answers; needs no key")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(ROUTE, summary="Render a prompt")
    async def generations(body: Generation) -> Images:
        try:
            [image] = await asyncio.wrap_future(queue.submit([(body.prompt, body.seed)]))
        except BusyError as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
        except GrpoMmpcError as error:
            raise HTTPException(500, str(error)) from error
        if isinstance(image, Failure):
            raise HTTPException(422, image.reason)
        return Images(data=[EncodedImage(b64_json=await asyncio.to_thread(png_base64, image))])

    return app
