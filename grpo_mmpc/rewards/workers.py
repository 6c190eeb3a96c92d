"""Where a reward runs: in a thread of this process, or in a process of its own."""

import atexit
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future, wait
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError

_ENDING = {signal.SIGINT, signal.SIGTERM}


def call(fn: Callable[..., Any], action: str, payload: Any) -> Any:
    """Do one action with a reward function."""
    if action == "score":
        return fn(**payload)
    if action == "fit":
        return fn.fit(payload)  # type: ignore[attr-defined]
    return fn.prepare(**payload)  # type: ignore[attr-defined]


class ThreadWorker:
    """A daemon thread: it can be waited for in vain, but it keeps no process alive."""

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self._name = name
        self._todo: queue.SimpleQueue[tuple[Future[Any], str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open: set[Future[Any]] = set()
        self._abandoned: set[Future[Any]] = set()
        self._seconds: dict[Future[Any], float] = {}
        self._growth = 0
        self._device: int | None = None

    def submit(self, action: str, payload: Any) -> "Future[Any]":
        """Queue an action."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"reward {self._name}", daemon=True)
            self._thread.start()
        self._device = cuda_device()
        future: Future[Any] = Future()
        self._open.add(future)
        self._todo.put((future, action, payload))
        return future

    @property
    def busy(self) -> bool:
        """Whether something is queued or running."""
        return bool(self._open)

    @property
    def hung(self) -> bool:
        """Whether something that was given up is still running."""
        return bool(self._abandoned & self._open)

    def give_up(self, future: "Future[Any]") -> None:
        """Leave the thread alone until it comes back: what it returns then is dropped, what is queued is not begun."""
        self._abandoned |= self._open

    def seconds(self, future: "Future[Any]") -> float | None:
        """How long the last action took; None while it runs."""
        return self._seconds.get(future)

    def growth(self) -> int:
        """Bytes by which this process grew during the last action, whoever took them."""
        return self._growth

    def close(self) -> None:
        """Nothing to do: the thread is a daemon."""

    def _work(self) -> None:
        while True:
            future, action, payload = self._todo.get()
            if future in self._abandoned:
                self._open.discard(future)
                self._abandoned.discard(future)
                future.cancel()
                future.set_running_or_notify_cancel()  # tells those who wait for it
                continue
            use_cuda_device(self._device)
            start, memory = time.monotonic(), resident_bytes(os.getpid())
            try:
                result, error = call(self._fn, action, payload), None
            except BaseException as raised:  # SystemExit too: a reward must not end the thread that runs it
                result, error = None, raised if isinstance(raised, Exception) else RewardError(f"raised {raised!r}")
            self._seconds = {future: time.monotonic() - start}
            self._growth = resident_bytes(os.getpid()) - memory
            self._open.discard(future)
            self._abandoned.discard(future)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, payload, result, error


class IsolatedWorker:
    """A process that builds the reward from its spec, started with the first action and again after it has died."""

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        self._process: Any = None
        self._connection: Connection | None = None
        self._thread = ThreadWorker(spec.name, self._exchange)
        self._corpus: Any = None
        self._resident = 0

    def submit(self, action: str, payload: Any) -> "Future[Any]":
        """Queue an action."""
        if action == "fit":
            self._corpus = payload
        return self._thread.submit("score", {"action": action, "payload": payload})

    @property
    def busy(self) -> bool:
        """Whether something is queued or running."""
        return self._thread.busy

    @property
    def hung(self) -> bool:
        """Whether something that was given up is still running, though its process was killed."""
        return self._thread.hung

    def give_up(self, future: "Future[Any]") -> None:
        """Kill the process; the next action starts another."""
        self._thread.give_up(future)
        self.close()
        wait([future], timeout=30)  # until the thread has noticed, and is ready for the next batch

    def seconds(self, future: "Future[Any]") -> float | None:
        """How long the last action took; None while it runs."""
        return self._thread.seconds(future)

    def growth(self) -> int:
        """Bytes by which the process has grown since it was last asked."""
        if self._process is None:
            return 0
        resident, before = resident_bytes(self._process.pid), self._resident
        self._resident = resident
        return resident - before if before else 0

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            atexit.unregister(self._process.kill)
            self._process.kill()
            self._process.join()

    def _exchange(self, *, action: str, payload: Any) -> Any:
        fresh = self._process is None or not self._process.is_alive()
        if fresh:
            self._start()
        if fresh and self._corpus is not None and action != "fit":
            self._ask("fit", self._corpus)
        return self._ask(action, payload)

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("spawn")  # a fork would copy CUDA contexts and locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._spec.model_dump(), theirs, os.getpid(), cuda_device()), daemon=True
        )
        # It inherits the mask, so that no signal ends it before it has said what it does about
        # them; the tracker is started first, because starting it clears the mask.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # Before multiprocessing's own: that one asks by SIGTERM, and waits forever.
        atexit.register(self._process.kill)
        theirs.close()
        self._resident = 0

    def _ask(self, action: str, payload: Any) -> Any:
        assert self._connection is not None
        try:
            self._connection.send((action, _without_pictures(payload)))
            result, error = self._connection.recv()
        except (EOFError, OSError) as lost:
            self._process.join(timeout=5)
            raise RewardError(f"its process died (exit code {self._process.exitcode})") from lost
        if error is not None:
            raise RewardError(error)
        return result


def _serve(spec: dict[str, Any], connection: Connection, parent: int, device: int | None) -> None:
    """The isolated process: answers actions until its parent is gone."""
    # Ctrl-C, timeout, Slurm and containers reach all processes; the parent decides what it means,
    # and may need a reward for the step that it finishes before it saves. SIGTERM is heard and not
    # ignored: what a reward starts would inherit that, and never end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    from grpo_mmpc.rewards.loading import build_reward  # here, so that the parent's copy is not imported in a cycle

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_cuda_device(device)
    fn, broken = None, None
    try:
        fn = build_reward(RewardSpec.model_validate(spec)).fn
    except Exception as error:  # told with the first answer
        broken = str(error)
    while True:
        try:
            action, payload = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, str | None]
        try:
            if fn is None:
                raise RewardError(broken)
            result = call(fn, action, payload)
            # A list of a mapping or a set would hide from the parent that it is none, which it
            # refuses.
            as_it_is = result is None or isinstance(result, str | bytes | Mapping | Set)
            answer = ((result if as_it_is else list(result)) if action == "score" else None, None)
        except Exception as error:  # told to the parent, which knows the policy
            answer = (None, f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except OSError:
            return
        except Exception as error:  # what cannot be pickled
            connection.send((None, f"{type(error).__name__}: {error}"))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def cuda_device() -> int | None:
    """The GPU of the calling thread; None without CUDA, or before it is in use."""
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else None


def use_cuda_device(device: int | None) -> None:
    """Make a thread or process use the GPU of another one: CUDA starts every thread on the first."""
    if device is not None:
        import torch  # heavy: imported on use

        torch.cuda.set_device(device)


def _without_pictures(payload: Any) -> Any:
    """Keyword lists with prompts that hold text only: rewards find the picture in ``image_paths``, and pipes are narrow."""
    if not isinstance(payload, dict) or "prompts" not in payload:
        return payload

    def stripped(message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        return {**message, "content": [{k: v for k, v in part.items() if k != "image"} for part in content]}

    prompts = [prompt if isinstance(prompt, str) else [stripped(m) for m in prompt] for prompt in payload["prompts"]]
    return {**payload, "prompts": prompts}


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
