"""Render on servers of images: any that answers OpenAI's ``POST /v1/images/generations``."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.errors import EvaluationError, ImageError
from grpo_mmpc.utils.api_servers import ApiServers, NoAnswer
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from PIL.Image import Image

KEY_VARIABLE = "IMAGES_API_KEY"
ROUTE = "/v1/images/generations"
_MAX_BYTES = 128 * 2**20  # base64 of a PNG with 50 million pixels that compresses by a third
_RESERVED = ("prompt", "n", "seed", "model", "response_format")


class ImagesApiRenderer:
    """Diffusion servers that many processes share; nothing is loaded here.

    Every prompt is one request with its own ``seed``, up to ``batch_size`` of them in flight; see
    ``ApiServers`` for how they are asked. What a server refuses is a failed render. Images come
    inside of answers: an address in one is never fetched. The key is read from ``IMAGES_API_KEY``
    and written nowhere.

    Args:
        urls: Base URLs, ``http://host:9000``; one, or several that serve the same model.
        model: What the servers call it. Images are known by this name, not by the address.
        size: ``WIDTHxHEIGHT``; None leaves it to the server.
        options: Further fields of a request, verbatim, such as ``{"num_inference_steps": 4}``.
        batch_size: Requests in flight from this process.
        timeout_s: Seconds that one image may take, tries included.

    Raises:
        EvaluationError: An argument is not as described.
    """

    def __init__(
        self,
        *,
        urls: str | Sequence[str],
        model: str,
        size: str | None = None,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        timeout_s: float = 300.0,
    ) -> None:
        self._servers = ApiServers(
            who="renderer images_api",
            error=EvaluationError,
            urls=urls,
            route=ROUTE,
            kind="images",
            key_variable=KEY_VARIABLE,
            batch_size=batch_size,
            timeout_s=timeout_s,
            max_bytes=_MAX_BYTES,
        )
        if size is not None and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
            raise EvaluationError(f"renderer images_api: size must be WIDTHxHEIGHT such as 1024x1024, found {size!r}")
        if set_here := sorted(set(options or {}) & {*_RESERVED, "size"}):
            raise EvaluationError(f"renderer images_api: options must not set {', '.join(set_here)}")
        self.batch_size = batch_size
        self._body = {"model": model, "n": 1, "response_format": "b64_json", **(options or {})}
        self._body |= {} if size is None else {"size": size}

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | Failure]":
        """Render N prompts; see ``Renderer``.

        Raises:
            EvaluationError: A server is not one of images, wants another key, or none answers.
        """
        bodies = [{**self._body, "prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
        images = self._servers.ask(bodies, _image_of)
        for image in images:
            if isinstance(image, NoAnswer):
                raise EvaluationError(image.reason)
        return images


def _image_of(content: bytes, url: str) -> "Image | Failure":
    try:
        [entry] = json.loads(content)["data"]
        encoded = entry["b64_json"]
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"renderer images_api: {url} answers without one image as b64_json ({type(error).__name__}: {error}); "
            "addresses of images are not followed"
        ) from error
    try:
        return decode_image(io.BytesIO(data), name=f"of {url}")
    except ImageError as error:
        return Failure(reason=str(error))
