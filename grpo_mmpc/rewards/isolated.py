"""A reward in a process of its own, which is killed when it hangs and restarted when it died."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Mapping, Set
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.worker import Columns, Fit, Host, Message, cuda_device, resident_bytes, use_cuda_device
from grpo_mmpc.utils.processes import die_with_parent

_ENDING = {signal.SIGINT, signal.SIGTERM}


class InProcess(Host):
    """A reward that a process builds from its spec, since a closure could not be sent there."""

    is_process = True

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        self._process: Any = None
        self._connection: Connection | None = None
        self._fit: Fit | None = None

    def ask(self, message: Message) -> Any:
        """Send a message and wait for the answer; a process that had to be started is fitted first.

        Raises:
            RewardError: The reward failed, or its process died.
        """
        is_new = self._process is None or not self._process.is_alive()
        if is_new:
            self._start()
        if isinstance(message, Fit):
            self._fit = message
        elif is_new and self._fit is not None:
            self._exchange(self._fit)
        return self._exchange(message)

    def resident_bytes(self) -> int:
        """Return the memory of the process."""
        return 0 if self._process is None else resident_bytes(self._process.pid)

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            atexit.unregister(self._process.kill)
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        self.end()
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

    def _exchange(self, message: Message) -> Any:
        assert self._connection is not None
        try:
            self._connection.send(_without_images(message))
            value, error = self._connection.recv()
        except (EOFError, OSError) as lost:
            self._process.join(timeout=5)
            raise RewardError(f"its process died (exit code {self._process.exitcode})") from lost
        if error is not None:
            raise RewardError(error)
        return value


def _serve(spec: dict[str, Any], connection: Connection, parent: int, device: int | None) -> None:
    """Answer messages until the parent is gone; the main function of the process."""
    # Ctrl-C, timeout, Slurm and containers reach all processes; the parent decides what it means,
    # and may need a reward for the step that it finishes before it saves. SIGTERM is heard and not
    # ignored: what a reward starts would inherit that, and never end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    from grpo_mmpc.rewards.loading import build_reward  # here, because it may fail, which is part of the answer

    die_with_parent(parent)  # the thread that started this process lasts as long as its own process
    use_cuda_device(device)
    reward, broken = None, None
    try:
        reward = build_reward(RewardSpec.model_validate(spec)).fn
    except Exception as error:  # part of the first answer
        broken = str(error)
    while True:
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, str | None]
        try:
            if reward is None:
                raise RewardError(broken)
            answer = (_to_send(message.apply(reward)), None)
        except Exception as error:  # part of the answer: the parent knows the policy
            answer = (None, f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except OSError:
            return
        except Exception as error:  # scores that cannot be pickled
            connection.send((None, f"{type(error).__name__}: {error}"))


def _to_send(scores: Any) -> Any:
    """Return scores as a list, because a generator cannot be pickled.

    A mapping or a set stays as it is: a list would hide from the parent that it is none, which it
    refuses.
    """
    return scores if scores is None or isinstance(scores, str | bytes | Mapping | Set) else list(scores)


def _without_images(message: Message) -> Message:
    """Drop the images of prompts: rewards read them from ``image_paths``, and pipes are narrow."""
    return message if isinstance(message, Fit) else replace(message, columns=_text_only(message.columns))


def _text_only(columns: Columns) -> Columns:
    if "prompts" not in columns:
        return columns

    def stripped(message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        return {**message, "content": [{k: v for k, v in part.items() if k != "image"} for part in content]}

    prompts = [prompt if isinstance(prompt, str) else [stripped(m) for m in prompt] for prompt in columns["prompts"]]
    return {**columns, "prompts": prompts}
