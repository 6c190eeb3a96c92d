"""The HTTP interface of a ``CompletionService``: JSON in batches, or one photograph as it is."""

import asyncio
import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from grpo_mmpc import __version__
from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.catalogue.records import read_attributes
from grpo_mmpc.catalogue.rows import RowError, text_cell
from grpo_mmpc.completion.asking import no_answer
from grpo_mmpc.completion.judging import proposal_of
from grpo_mmpc.completion.proposal import Proposal
from grpo_mmpc.completion.service import CompletionService
from grpo_mmpc.errors import GrpoMmpcError, ImageError
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.tasks.prompt_rows import filling_task
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.batch_queue import BusyError

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_ITEMS = 256
"""Items of one request."""
_PHOTO = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}


class Item(BaseModel):
    """A product that lacks its title or its image, or what the server's own tasks ask for."""

    model_config = ConfigDict(extra="forbid")

    item_id: str = Field("", description="Comes back with the proposal; the item's place in the batch if empty.")
    category: str = ""
    title: str | None = Field(None, description="Without it, the image is answered with a title.")
    image: str | None = Field(
        None, description="Base64 of a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; without it, the title with an image."
    )
    description: str | None = Field(None, description="For tasks that show it, or ask for it where it is missing.")
    attributes: dict[str, Any] = Field({}, description="Known facts, which a title must not contradict.")


class Batch(BaseModel):
    """Items to complete; what is wrong with one of them costs the others nothing."""

    model_config = ConfigDict(extra="forbid")

    items: list[Item] = Field(min_length=1, max_length=MOST_ITEMS)


@dataclass(frozen=True, kw_only=True)
class CompletedBatch:
    """One proposal for each item, in their order; the image that fills one is base64 of a PNG."""

    proposals: list[Proposal]


def application(service: CompletionService) -> "FastAPI":
    """Return the application: ``/complete``, ``/photo``, ``/health``, ``/openapi.json``."""
    # heavy: imported on use
    from fastapi import FastAPI, HTTPException
    from fastapi import Request as HttpRequest

    app = FastAPI(title="grpo-mmpc: catalogue completion", version=__version__, docs_url=None, redoc_url=None)

    async def answered(items: Sequence[Item], photo: bytes | None = None) -> list[Proposal]:
        with TemporaryDirectory(prefix="grpo-mmpc-") as folder:
            try:
                return await _answered(service, items, photo=photo, folder=Path(folder))
            except BusyError as error:
                raise HTTPException(503, str(error), headers={"Retry-After": "5"}) from error
            except GrpoMmpcError as error:
                raise HTTPException(500, str(error)) from error

    @app.get("/health", summary="Whether it answers; needs no key")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/complete", summary="Fill what items lack")
    async def complete(batch: Batch) -> CompletedBatch:
        return CompletedBatch(proposals=await answered(batch.items))

    @app.post("/photo", summary="Give a photograph its title, or what the server's tasks ask", openapi_extra=_PHOTO)
    async def photo(
        request: HttpRequest, item_id: str = "", category: str = "", attributes: Annotated[str, "a JSON object"] = "{}"
    ) -> Proposal:
        try:
            facts = loads(attributes)
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"attributes is not JSON: {error}") from error
        if not isinstance(facts, dict):
            raise HTTPException(422, "attributes is no JSON object")
        item = Item(item_id=item_id, category=category, title=None, image=None, description=None, attributes=facts)
        [proposal] = await answered([item], await request.body())
        return proposal

    return app


async def _answered(
    service: CompletionService, items: Sequence[Item], *, photo: bytes | None, folder: Path
) -> list[Proposal]:
    read = await asyncio.to_thread(
        lambda: [_read(service, item, photo, number=i, folder=folder) for i, item in enumerate(items, start=1)]
    )
    records = [one for one in read if isinstance(one, ProductRecord)]
    proposals: list[Proposal] = []
    if records:
        proposals = await asyncio.wrap_future(service.submit([(folder, record) for record in records]))
    answers = iter(proposals)
    return [one if isinstance(one, Proposal) else next(answers) for one in read]


def _read(
    service: CompletionService, item: Item, photo: bytes | None, *, number: int, folder: Path
) -> ProductRecord | Proposal:
    """Return the record of an item whose image is written into the folder, or why there is none."""
    try:
        image = photo if item.image is None else _from_base64(item.image)
        return _record(item, image, tasks=service.tasks, number=number, folder=folder)
    except (RowError, ImageError) as error:
        name = "text_to_image" if item.image is None and photo is None else "image_to_text"
        task = service.tasks.get(name) or next(iter(service.tasks.values()))
        refused = replace(no_answer(task, "not an item", str(error)), item_id=item.item_id or str(number))
        return proposal_of(service.provenance, task, refused, is_asked=False)


def _record(item: Item, image: bytes | None, *, tasks: Mapping[str, Task], number: int, folder: Path) -> ProductRecord:
    cells: Mapping[str, Any] = item.model_dump()
    item_id = text_cell(cells, "item_id") or str(number)
    title = text_cell(cells, "title")
    if tasks == TASKS and (title is None) == (image is None):
        given = "neither title nor image" if title is None else "nothing is missing: title and image"
        raise RowError(f"{given}; give one of them, and the other is what comes back")
    facts, warning = read_attributes(item.attributes)
    if warning is not None:
        raise RowError(warning)
    name = None
    if image is not None:
        decode_image(io.BytesIO(image), name=item_id)
        name = str(number)
        (folder / name).write_bytes(image)
    record = ProductRecord(
        item_id=item_id,
        category=text_cell(cells, "category") or "",
        title=title,
        description=text_cell(cells, "description", one_line=False),
        image=name,
        attributes={} if facts is None else loads(facts),
    )
    if filling_task(record, tasks.values()) is None:
        asked = "; ".join(f"{task.name} makes {task.target} of {', '.join(task.source)}" for task in tasks.values())
        raise RowError(f"nothing is missing that can be filled from the rest: {asked}")
    return record


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError as error:
        raise RowError(
            f"image is not base64 ({error}); send the bytes of the file so, or to /photo as they are"
        ) from error
