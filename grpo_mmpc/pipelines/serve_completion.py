"""Serve catalogue completion over HTTP: photographs in, proposals out."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.completion.calibration import CALIBRATION_FILE, read_calibration
from grpo_mmpc.completion.judging import Gate
from grpo_mmpc.completion.plan import completing_tasks, provenance_of
from grpo_mmpc.completion.service import CompletionService
from grpo_mmpc.completion.web import application
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rendering.registry import load_renderer
from grpo_mmpc.rollout.engines import engines_of_this_machine
from grpo_mmpc.rollout.vllm.guard import KEY_VARIABLE, Guard
from grpo_mmpc.rollout.vllm.serve import probe_port, server_key
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.console import printer

_POLL_S = 0.05
_LEAVE_S = 2
"""Seconds that open connections get at the end."""

say = printer(True)


def serve_completion(
    config: RunConfig,
    *,
    checkpoint: Path | None,
    known: Path | None = None,
    samples: int = 0,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> NoReturn:
    """Answer requests until this process is interrupted.

    Args:
        config: The recipe: model, engine, renderer and gate.
        checkpoint: Folder of the adapter; None is the policy before training.
        known: Catalogue folder, or a completed one: titles that count as duplicates, values that
            attributes take, and the calibration of confidence, where it has one.
        samples: See ``complete_catalogue``.
        host: Interface to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        RolloutError: The engine cannot start, or the port is taken.
        CatalogueError: ``known`` cannot be read, or its calibration is another policy's.
    """
    port, checkpoint = probe_port(host, port), config.asked(checkpoint)
    provenance = provenance_of(config, checkpoint=checkpoint, samples=samples)
    calibration = None
    if known is not None and samples and (known / CALIBRATION_FILE).is_file():
        calibration = read_calibration(known / CALIBRATION_FILE, policy=provenance.policy, samples=samples)
    records: Iterable[ProductRecord] = [] if known is None else load_catalogue(known).records()
    gate = Gate(config.gate, records, calibration)
    settings, key = config.evaluation, server_key()
    with ExitStack() as stack:
        adapter = "" if checkpoint is None else f" with adapter {checkpoint}"
        say(f"loading {config.model.name_or_path}{adapter} ...")
        engine = stack.enter_context(engines_of_this_machine(config, checkpoint=checkpoint, workers=None))
        renderer = None if settings.renderer is None else load_renderer(settings.renderer, **settings.renderer_kwargs)
        tasks = completing_tasks(config)
        service = CompletionService(provenance, engine=engine, renderer=renderer, gate=gate, tasks=tasks)
        app = Guard(application(service), key=key, host=host)
        stack.enter_context(listening(app, host=host, port=port))
        _say_where(host, port, key)
        service.run()


@contextmanager
def listening(app: Any, *, host: str, port: int) -> Iterator[None]:
    """Answer HTTP in another thread: the model keeps this one, and signals come here.

    Raises:
        RolloutError: The server did not start.
    """
    import uvicorn  # heavy: imported on use

    server = uvicorn.Server(
        uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_LEAVE_S)
    )
    thread = Thread(target=server.run, name="http", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RolloutError(f"the server did not start on {host}:{port}; choose another --host or --port")
            time.sleep(_POLL_S)
        yield
    finally:
        server.should_exit = True
        thread.join(2 * _LEAVE_S)


def _say_where(host: str, port: int, key: str) -> None:
    say(f"answering on http://{host}:{port} (/complete, /photo, /openapi.json); Ctrl-C stops it. Try:")
    shown = f"${KEY_VARIABLE}" if os.environ.get(KEY_VARIABLE) else key
    say(
        f'  curl -H "Authorization: Bearer {shown}" -H "Content-Type: image/jpeg" --data-binary @photo.jpg '
        f"http://{host}:{port}/photo"
    )
    say("Only who has the key can use it. Requests are not encrypted: keep the port inside your network.")
