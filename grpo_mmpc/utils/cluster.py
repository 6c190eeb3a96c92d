"""Ray: a cluster of others, or one of our own for the duration of a block."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpo_mmpc.errors import ConfigError

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME")
"""Settings of this process that workers on other machines need too."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """The module ``ray``, connected.

    Args:
        address: Of a running cluster, ``auto`` for the one this machine belongs to; None starts
            one.

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
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError([f"--ray-address {address}: Ray cannot be reached: {error}"]) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def task_environment(*, cpus: int) -> dict[str, str]:
    """Environment variables of a task with so many cores."""
    threads = {"OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus)}
    return threads | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
