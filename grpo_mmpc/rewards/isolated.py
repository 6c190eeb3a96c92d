"""A reward in a process of its own, which is killed when it hangs and restarted when it died."""

import os
import signal
import sys
from collections.abc import Mapping, Set
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.worker import (
    Columns,
    Fit,
    Host,
    Message,
    cuda_device,
    explained,
    resident_bytes,
    use_cuda_device,
)
from grpo_mmpc.utils.processes import Child

_ENDING = {signal.SIGINT, signal.SIGTERM}


class InProcess(Host):
    """A reward that a process builds from its spec, since a closure could not be sent there.

    Everything that the reward starts ends with the process, and the process with this one.
    """

    is_process = True

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        self._child: Child | None = None
        self._connection: Connection | None = None
        self._fit: Fit | None = None
        self._resident = 0

    def ask(self, message: Message) -> Any:
        """Send a message and wait for the answer; a process that had to be started is fitted first.

        Raises:
            RewardError: The reward failed, or its process died.
        """
        is_new = self._child is None or self._child.poll() is not None
        if is_new:
            self._start()
        if isinstance(message, Fit):
            self._fit = message
        elif is_new and self._fit is not None:
            self._exchange(self._fit)
        return self._exchange(message)

    def resident_bytes(self) -> int:
        """Return the memory of the process after its latest answer."""
        return self._resident

    def end(self) -> None:
        """Kill the process."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _start(self) -> None:
        self._resident = 0
        self._connection, theirs = Pipe()
        code = f"from grpo_mmpc.rewards.isolated import serve; serve({theirs.fileno()})"
        # It inherits the mask: no signal ends it before it has said what it does about them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self._child = Child(
                [sys.executable, "-c", code],
                log=None,
                environment=os.environ,
                grace_s=0.0,
                inherited=[theirs.fileno()],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._connection.send((self._spec.model_dump(), cuda_device(), sys.path))

    def _exchange(self, message: Message) -> Any:
        assert self._connection is not None and self._child is not None
        try:
            self._connection.send(_without_images(message))
            value, error, self._resident = self._connection.recv()
        except (EOFError, OSError) as lost:
            raise RewardError(f"its process died (exit code {self._child.wait()})") from lost
        if error is not None:
            raise RewardError(error)
        return value


def serve(descriptor: int) -> None:
    """Answer messages until the parent is gone; the main function of the process."""
    # Slurm and containers send SIGTERM to all processes; the parent decides what it means, and may
    # need a reward for the step that it finishes before it saves. It is heard and not ignored: what
    # a reward starts would inherit that, and never end.
    for number in _ENDING:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    connection = Connection(descriptor)
    spec, device, sys.path[:] = connection.recv()
    from grpo_mmpc.rewards.loading import build_reward  # here, because it may fail, which is part of the answer

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
        value, problem = None, broken
        if reward is not None:
            try:
                value = _to_send(message.apply(reward))
            except Exception as error:  # part of the answer: the parent knows the policy
                problem = explained(error)
        resident = resident_bytes(os.getpid())
        try:
            connection.send((value, problem, resident))
        except OSError:
            return
        except Exception as error:  # scores that cannot be pickled
            connection.send((None, f"{type(error).__name__}: {error}", resident))


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
