"""The thread that hands one reward its messages, and the messages."""

import atexit
import os
import queue
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import RewardError
from grpo_mmpc.types import RewardFn

_NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
    "<frozen",
)

_COME_BACK_S = 20.0
"""Most that the end of a process waits for a reward that is in the middle of a batch."""

Columns = Mapping[str, list[Any]]
"""Keyword lists that a reward is called with, all of one length."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The titles and images of the training items, for a reward that asks for a corpus."""

    titles: Sequence[str]
    images: Sequence[str] = ()

    def apply(self, reward: Any) -> None:
        """Call the reward's ``fit`` and ``fit_images``, those that it has."""
        for name, corpus in (("fit", self.titles), ("fit_images", self.images)):
            if (fit := getattr(reward, name, None)) is not None:
                fit(corpus)


@dataclass(frozen=True, slots=True)
class Prepare:
    """The columns known before completions are there, for a reward that can encode ahead."""

    columns: Columns

    def apply(self, reward: Any) -> None:
        """Call the reward's ``prepare``."""
        reward.prepare(**self.columns)


@dataclass(frozen=True, slots=True)
class Score:
    """The completions to score, with their columns."""

    columns: Columns

    def apply(self, reward: Any) -> Any:
        """Call the reward."""
        return reward(**self.columns)


Message = Fit | Prepare | Score


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one message."""

    value: Any = None
    """Scores as the reward returned them, unchecked; None for other messages."""
    error: Exception | None = None
    """Raised instead."""
    seconds: float = 0.0


class Host:
    """The place where a reward lives, used by one thread: this process, or that of a subclass."""

    is_process = False
    """True for a process of its own, which can be ended."""

    def __init__(self, reward: RewardFn) -> None:
        self._reward = reward

    def ask(self, message: Message) -> Any:
        """Let the reward do what a message says, and return what it returns."""
        return message.apply(self._reward)

    def resident_bytes(self) -> int:
        """Return the memory of the reward's process; 0 if there is none, or it is unknown."""
        return resident_bytes(os.getpid())

    def end(self) -> None:
        """End the process if it is the reward's own; the next message starts another."""


class Worker:
    """A thread that hands messages to a host in order.

    It may never finish; being a daemon it does not block exit.
    """

    def __init__(self, name: str, host: Host) -> None:
        self._name = name
        self.host = host
        self._messages: queue.SimpleQueue[tuple[Future[Reply], Message]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open: set[Future[Reply]] = set()
        self._abandoned: set[Future[Reply]] = set()
        self._growth = 0
        self._device: int | None = None

    def submit(self, message: Message) -> "Future[Reply]":
        """Queue a message. The future never raises: errors are part of the answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"reward {self._name}", daemon=True)
            self._thread.start()
            atexit.register(self._come_back)
        self._device = cuda_device()
        future: Future[Reply] = Future()
        self._open.add(future)
        self._messages.put((future, message))
        return future

    @property
    def busy(self) -> bool:
        """True while a message is queued or running."""
        return bool(self._open)

    @property
    def hung(self) -> bool:
        """True while a message that was given up is still running."""
        return bool(self._abandoned & self._open)

    def give_up(self, future: "Future[Reply]") -> None:
        """Drop the answers to all messages so far, and begin none that is queued.

        A process is killed. A thread is left alone until it comes back.
        """
        self._abandoned |= self._open
        if self.host.is_process:
            self.host.end()
            wait([future], timeout=30)  # until the thread has noticed, and is ready for the next batch

    def _come_back(self) -> None:
        """Wait for what is scored: a thread inside a library when Python ends aborts it."""
        if not self.host.is_process:
            wait(self._open - self._abandoned, timeout=_COME_BACK_S)

    def take_growth(self) -> int:
        """Return the bytes by which the reward's process has grown, whoever took them.

        Its own process: since this was last asked. A thread: during the last message alone, because
        the trainer takes memory of this process while it generates.
        """
        growth, self._growth = self._growth, 0
        return growth

    def _work(self) -> None:
        while True:
            future, message = self._messages.get()
            if future in self._abandoned:
                answer = Reply(error=RewardError("was not begun, because an earlier message was given up"))
            else:
                use_cuda_device(self._device)
                answer = self._ask(message)
            self._open.discard(future)
            self._abandoned.discard(future)
            future.set_result(answer)
            del future, message, answer  # nothing of a batch is kept while the next one is waited for

    def _ask(self, message: Message) -> Reply:
        before, start = self.host.resident_bytes(), time.monotonic()
        value, error = None, None
        try:
            value = self.host.ask(message)
        except Exception as raised:
            error = raised
        except BaseException as raised:  # SystemExit: a reward must not end the thread that runs it
            error = RewardError(f"raised {raised!r}")
        seconds, after = time.monotonic() - start, self.host.resident_bytes()
        growth = after - before if before and after else 0
        self._growth = self._growth + growth if self.host.is_process else growth
        return Reply(value=value, error=error, seconds=seconds)


def explained(error: BaseException) -> str:
    """Return type and message of an exception, and the file and line of the code that led to it.

    That is the innermost line outside this package and outside installed ones.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"


def cuda_device() -> int | None:
    """Return the GPU of the calling thread; None without CUDA, or before it is in use."""
    # Without the attribute, torch is being imported by another thread.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    return None if is_initialized is None or not is_initialized() else cuda.current_device()  # type: ignore[union-attr]


def use_cuda_device(device: int | None) -> None:
    """Use the GPU of another thread or process: CUDA starts every thread on the first."""
    if device is not None:
        import torch  # heavy: imported on use

        torch.cuda.set_device(device)


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
