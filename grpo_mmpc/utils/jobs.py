"""One queue for many jobs: some at a time, retried, stopped, here or as tasks of a Ray cluster."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Generic, Protocol, TypeVar

from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.processes import StopRequest, die_with_parent

Job = TypeVar("Job")
Slot = TypeVar("Slot")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

Environment = Mapping[str, str]
"""The share of the machine of one job, as environment variables."""

_POLL_S = 0.1
_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME")
"""Settings of this process that workers on other machines need too."""


class Running(Protocol[Result_co]):
    """A job that was started."""

    def poll(self) -> Result_co | None:
        """Return its result, never None; None while it runs."""

    def stop(self) -> None:
        """Ask it to end; called again and again."""

    def kill(self) -> None:
        """End it at once; called again and again, and also after its end."""


def run_queue(
    jobs: Sequence[Job],
    start: Callable[[Job, Slot], Running[Result]],
    *,
    slots: Sequence[Slot],
    ended: Callable[[Job, Result, bool], None],
    retries: int = 0,
    failed: Callable[[Result], bool] = lambda result: False,
    show: Callable[[list[Job]], None] = lambda running: None,
    stop: StopRequest | None = None,
) -> list[tuple[Job, Result]]:
    """Run jobs in their order; return those that were begun with their results, as they ended.

    Args:
        jobs: What to run.
        start: Starts a job in a slot.
        slots: What each of the jobs that run at once may use, such as a GPU.
        ended: Called with every result and whether the job is tried again.
        retries: Further attempts of a job that failed, after all others have begun.
        failed: Says of a result that the job may be tried again.
        show: Called with the jobs that run, several times a second.
        stop: Asked all the time; without it, an exception is the only way out.
    """
    waiting, free = deque((job, 1) for job in jobs), deque(slots)
    running: list[tuple[Job, int, Slot, Running[Result]]] = []
    results: list[tuple[Job, Result]] = []
    requests = StopRequest("") if stop is None else stop
    try:
        while running or (waiting and not requests.times):
            while free and waiting and not requests.times:
                job, attempt = waiting.popleft()
                slot = free.popleft()
                running.append((job, attempt, slot, start(job, slot)))
            still = []
            for job, attempt, slot, one in running:
                if requests.times:
                    one.stop()
                if requests.times > 1:
                    one.kill()
                result = one.poll()
                if result is None:
                    still.append((job, attempt, slot, one))
                    continue
                free.append(slot)
                again = attempt <= retries and failed(result)
                ended(job, result, again)
                if again:
                    waiting.append((job, attempt + 1))
                else:
                    results.append((job, result))
            running = still
            show([job for job, *_ in running])
            if running:
                time.sleep(_POLL_S)
    finally:
        for *_, one in running:
            one.kill()
    return results


# --- In this process, or in worker processes of this machine


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A job that this process has done before the queue asks for it."""

    result: Result

    def poll(self) -> Result:
        """Return the result."""
        return self.result

    def stop(self) -> None:
        """Do nothing: it has ended."""

    kill = stop


@dataclass(frozen=True, slots=True)
class _Submitted:
    future: "Future[Any]"

    def poll(self) -> Any:
        try:
            return self.future.result() if self.future.done() else None
        except BrokenProcessPool as error:
            return Lost(error=error, raised=False, stopped=False)

    def stop(self) -> None:
        self.future.cancel()

    kill = stop


def shares_of_machine(
    *, parallel: int | None, gpus_each: int | None, cpus_each: int | None, options: tuple[str, str]
) -> list[Environment]:
    """Return what each of the jobs that run at once on this machine may use.

    Args:
        parallel: At most this many; None as many as GPUs or cores allow.
        gpus_each: GPUs of each job; None takes one where there are any.
        cpus_each: Threads of each job; None shares the cores out.
        options: What ``gpus_each`` and ``parallel`` are called, for messages.

    Raises:
        ConfigError: There are fewer GPUs than asked for.
    """
    gpus, cores = machine_gpus(), len(os.sched_getaffinity(0))
    gpus_each = (1 if gpus else 0) if gpus_each is None else gpus_each
    if gpus_each > len(gpus):
        raise ConfigError([f"{options[0]} is {gpus_each}, but this machine has {len(gpus)} GPUs to give"])
    at_most = len(gpus) // gpus_each if gpus_each else cores // (cpus_each or 1)
    count = max(1, at_most if parallel is None else parallel)
    if gpus_each and count > at_most:
        raise ConfigError([f"{options[1]} {count} times {gpus_each} GPUs needs more than the {len(gpus)} there are"])
    own_threads = threads(cpus_each or max(1, cores // count))
    environments: list[Environment] = []
    for number in range(count):
        own = gpus[number * gpus_each : (number + 1) * gpus_each]
        environments.append(own_threads | ({"CUDA_VISIBLE_DEVICES": ",".join(own)} if gpus else {}))
    return environments


def machine_gpus() -> list[str]:
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES takes them, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


@contextmanager
def worker_processes(environments: Sequence[Environment]) -> Iterator[Callable[..., Running[Any]]]:
    """Yield ``submit(number, function, *arguments)``: calls a function in the process of a number.

    There is one process for each environment, started when it is first needed, and again when it
    was killed, as the system does when memory runs out: the result of that call is ``Lost``.
    Whatever ends the block early ends the processes at once: what they write has to be whole or
    absent.

    Args:
        environments: Variables of each process; give the queue as many slots.
    """
    pools: dict[int, ProcessPoolExecutor] = {}

    def submit(number: int, function: Callable[..., Any], *arguments: Any) -> Running[Any]:
        def call() -> Running[Any]:
            if number not in pools:
                begin = (dict(environments[number]), os.getpid())
                pools[number] = ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=begin
                )
            return _Submitted(pools[number].submit(function, *arguments))

        try:
            return call()
        except BrokenProcessPool:
            pools.pop(number).shutdown(wait=False)
            return call()

    try:
        yield submit
        for pool in pools.values():
            pool.shutdown()
    except BaseException:
        # Waiting for what they are doing could take hours.
        for pool in pools.values():
            for worker in list((pool._processes or {}).values()):
                worker.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
        raise


def _begin_worker(environment: Environment, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    os.environ |= environment  # read when torch is imported, which a worker need not do
    if (torch := sys.modules.get("torch")) is not None:  # by the script that was started
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


# --- As tasks of a Ray cluster


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Yield the module ``ray``, connected.

    Args:
        address: Of a running cluster, ``auto`` for the one this machine belongs to; None starts one
            for the duration of the block.

    Raises:
        ConfigError: Ray is not installed or cannot be reached.
    """
    # heavy: imported on use, and an extra
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(["--engine ray needs Ray, which is not installed: pip install -e '.[ray]'"]) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports nothing to anyone
    try:
        # The dashboard is of no use here and opens a port.
        ray.init(address=address, include_dashboard=False if address is None else None, logging_level=logging.WARNING)
    except Exception as error:  # a bare one where a busy machine does not bring a node up in time
        what = "Ray does not start here" if address is None else f"--ray-address {address}: Ray cannot be reached"
        raise ConfigError([f"{what}: {error}"]) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The result of a task that has none."""

    error: Exception
    raised: bool
    """The function itself raised; else its machine was lost, or it was stopped."""
    stopped: bool
    """It was asked to end."""


@dataclass
class RayTask:
    """A call of a function as a Ray task; its result is that of the function, or ``Lost``."""

    ray: Any
    reference: Any
    _cancelled: int = 0

    def poll(self) -> Any:
        """See ``Running.poll``."""
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        errors = self.ray.exceptions
        try:
            return self.ray.get(self.reference)
        except errors.RayError as error:  # a lost machine has several names
            stopped = isinstance(error, errors.TaskCancelledError) or "KeyboardInterrupt" in str(error)
            return Lost(error=error, raised=isinstance(error, errors.RayTaskError) and not stopped, stopped=stopped)

    def stop(self) -> None:
        """Raise KeyboardInterrupt in the function."""
        self._cancel(1)

    def kill(self) -> None:
        """Kill the worker."""
        self._cancel(2)

    def _cancel(self, times: int) -> None:
        if self._cancelled < times:
            self._cancelled = times
            self.ray.cancel(self.reference, force=times > 1)


def ray_tasks(ray: Any, function: Callable[..., Any], *, cpus: int, gpus: float, what: str) -> Callable[..., RayTask]:
    """Return what calls a function as a Ray task with so many cores and GPUs.

    Args:
        ray: Of ``ray_cluster``.
        function: At the top of a module that workers can import, too.
        cpus: Cores and threads of each task.
        gpus: GPUs of each task, or a share of one.
        what: A task in words, for messages.

    Raises:
        ConfigError: The cluster has too few for a single task.
    """
    has = ray.cluster_resources()
    for name, needed in (("GPU", gpus), ("CPU", cpus)):
        if needed > has.get(name, 0):
            raise ConfigError([f"one {what} needs {needed:g} {name}s, the whole Ray cluster has {has.get(name, 0):g}"])
    environment = threads(cpus) | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    task = ray.remote(function).options(
        num_cpus=cpus, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": environment}
    )
    return lambda *arguments: RayTask(ray, task.remote(*arguments))


def threads(count: int) -> dict[str, str]:
    """Return the environment variables that give numerical libraries so many threads."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
