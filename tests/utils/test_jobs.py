"""The queue: jobs in their order, in their slots, tried again, and stopped."""

import json
import os
import signal
import time
from dataclasses import dataclass, field

import pytest

from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.jobs import (
    Done,
    Lost,
    ray_cluster,
    ray_tasks,
    run_queue,
    shares_of_machine,
    worker_processes,
)
from grpo_mmpc.utils.processes import StopRequest

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
ABLATE = ("--gpus-per-run", "--parallel")


@dataclass
class World:
    """Jobs that end when they were asked for so many times; names in capitals fail."""

    polls: int = 2
    started: list[tuple[str, str]] = field(default_factory=list)
    asked: dict[str, list[str]] = field(default_factory=dict)
    most_at_once: int = 0
    running: int = 0
    ended: list[tuple[str, str, bool]] = field(default_factory=list)

    def start(self, job: str, slot: str) -> "World.Job":
        self.started.append((job, slot))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        return self.Job(self, job, self.polls)

    @dataclass
    class Job:
        world: "World"
        name: str
        polls: int

        def poll(self) -> str | None:
            self.polls -= 1
            if self.polls > 0:
                return None
            self.world.running -= 1
            asked = self.world.asked.get(self.name)
            return "failed" if self.name.isupper() else "stopped" if asked else "fine"

        def stop(self) -> None:
            self.world.asked.setdefault(self.name, []).append("stop")

        def kill(self) -> None:
            self.world.asked.setdefault(self.name, []).append("kill")
            self.polls = 0

    def run(self, jobs, **options) -> list[tuple[str, str]]:
        return run_queue(
            jobs,
            self.start,
            slots=["first", "second"],
            ended=lambda *ended: self.ended.append(ended),
            failed=lambda result: result == "failed",
            **options,
        )


def test_jobs_start_in_their_order_no_more_at_once_than_there_are_slots():
    world = World()
    shown: list[object] = []
    results = world.run(["a", "b", "c"], show=shown.append)
    assert results == [("a", "fine"), ("b", "fine"), ("c", "fine")]
    assert world.started == [("a", "first"), ("b", "second"), ("c", "first")]
    assert world.most_at_once == 2
    assert shown[0] == ["a", "b"] and shown[-1] == []


def test_a_job_that_fails_is_tried_again_after_the_others_and_then_kept_as_failed():
    world = World()
    results = world.run(["A", "b", "c"], retries=1)
    assert [job for job, _ in world.started] == ["A", "b", "c", "A"]
    assert ("A", "failed", True) in world.ended and ("A", "failed", False) in world.ended
    assert sorted(results) == [("A", "failed"), ("b", "fine"), ("c", "fine")]


def test_one_signal_asks_what_runs_to_stop_and_begins_nothing_new(capsys):
    world = World(polls=3)
    with StopRequest("stopping").listening() as stop:
        results = world.run(["a", "b", "c"], stop=stop, show=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert results == [("a", "stopped"), ("b", "stopped")]
    assert set(world.asked["a"]) == {"stop"}


def test_another_ctrl_c_kills_it(capsys, monkeypatch):
    monkeypatch.setattr("grpo_mmpc.utils.processes.SAME_REQUEST_S", 0.0)
    world = World(polls=1000)
    with StopRequest("stopping").listening() as stop:
        world.run(["a"], stop=stop, show=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert world.asked["a"] == ["stop", "stop", "kill"]


def test_an_exception_kills_what_runs():
    world = World(polls=1000)
    with pytest.raises(ZeroDivisionError):
        world.run(["a", "b"], show=lambda _: 1 / 0)
    assert world.asked == {"a": ["kill"], "b": ["kill"]}


def test_what_this_process_does_itself_needs_no_waiting():
    began = time.monotonic()
    results = run_queue([1, 2, 3], lambda job, _: Done(job * 10), slots=[None], ended=lambda *_: None)
    assert results == [(1, 10), (2, 20), (3, 30)] and time.monotonic() - began < 0.1


def test_functions_run_in_worker_processes_and_what_they_raise_ends_the_queue():
    with worker_processes([ONE_THREAD] * 2) as submit:
        started = run_queue([2, 3], lambda job, slot: submit(slot, pow, job, 2), slots=[0, 1], ended=lambda *_: None)
        assert sorted(started) == [(2, 4), (3, 9)]
    with pytest.raises(ZeroDivisionError), worker_processes([ONE_THREAD]) as submit:
        run_queue([0], lambda job, slot: submit(slot, divmod, 1, job), slots=[0], ended=lambda *_: None)


def test_each_process_has_its_own_share_of_the_machine():
    shares = [ONE_THREAD | {"CUDA_VISIBLE_DEVICES": device} for device in ("4", "7")]
    with worker_processes(shares) as submit:
        seen = run_queue(
            [0, 1],
            lambda _, slot: submit(slot, os.getenv, "CUDA_VISIBLE_DEVICES"),
            slots=[0, 1],
            ended=lambda *_: None,
        )
    assert sorted(seen) == [(0, "4"), (1, "7")]


def test_a_worker_that_is_killed_loses_its_job_alone_and_another_takes_its_place():
    with worker_processes([ONE_THREAD] * 2) as submit:
        other = submit(1, abs, -3)
        (_, lost), (_, pid) = run_queue(
            [signal.SIGKILL, 0],
            lambda number, _: submit(0, signal.raise_signal, number) if number else submit(0, os.getpid),
            slots=[0],
            ended=lambda *_: None,
        )
        assert isinstance(lost, Lost) and not lost.raised
        while (result := other.poll()) is None:
            time.sleep(0.1)
        assert pid > 0 and result == 3


def test_workers_end_at_once_when_the_block_fails():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_processes([ONE_THREAD]) as submit:
        submit(0, time.sleep, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("address", "words"), [(None, "Ray does not start here: timed"), ("auto", "--ray-address auto: Ray cannot be rea")]
)
def test_a_ray_that_does_not_start_says_so_in_words(monkeypatch, address, words):
    def init(**_: object) -> None:
        raise Exception("timed out during startup")  # Ray's own class for that

    monkeypatch.setattr(pytest.importorskip("ray"), "init", init)
    with pytest.raises(ConfigError, match=words), ray_cluster(address):
        pass


@pytest.mark.slow
def test_functions_run_as_ray_tasks(monkeypatch):
    pytest.importorskip("ray")
    with ray_cluster(None) as ray:
        with pytest.raises(ConfigError, match="one reading needs 1000 CPUs, the whole Ray cluster has"):
            ray_tasks(ray, json.loads, cpus=1000, gpus=0, what="reading")
        submit = ray_tasks(ray, json.loads, cpus=1, gpus=0, what="reading")
        ((_, read), (_, lost)) = run_queue(
            ["[7]", "{"], lambda job, _: submit(job), slots=[None], ended=lambda *_: None
        )
    assert read == [7]
    assert isinstance(lost, Lost) and lost.raised and not lost.stopped and "JSONDecodeError" in str(lost.error)


def test_gpus_are_given_in_groups_and_cores_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    given = shares_of_machine(parallel=None, gpus_each=2, cpus_each=None, options=ABLATE)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in given] == ["4,5", "6,7"]
    assert {slot["OMP_NUM_THREADS"] for slot in given} == {"4"}
    with pytest.raises(ConfigError, match="--gpus-per-run is 8, but this machine has 4"):
        shares_of_machine(parallel=None, gpus_each=8, cpus_each=None, options=ABLATE)
    with pytest.raises(ConfigError, match="--parallel 3 times 2 GPUs needs more than the 4 there are"):
        shares_of_machine(parallel=3, gpus_each=2, cpus_each=None, options=ABLATE)


def test_without_gpus_every_core_runs_one_job_of_one_thread(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    given = shares_of_machine(parallel=None, gpus_each=None, cpus_each=None, options=ABLATE)
    assert given == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}] * 2
