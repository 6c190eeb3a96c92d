"""The queue: jobs in their order, in their slots, tried again, and stopped."""

import json
import os
import signal
import time
from dataclasses import dataclass, field

import pytest

from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.jobs import Done, Lost, ray_cluster, ray_tasks, run_queue, worker_processes
from grpo_mmpc.utils.processes import StopRequest


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
    with worker_processes(2, threads=1) as submit:
        started = run_queue([2, 3], lambda job, _: submit(pow, job, 2), slots=[0, 1], ended=lambda *_: None)
        assert sorted(started) == [(2, 4), (3, 9)]
    with pytest.raises(ZeroDivisionError), worker_processes(1, threads=1) as submit:
        run_queue([0], lambda job, _: submit(divmod, 1, job), slots=[0], ended=lambda *_: None)


def test_workers_end_at_once_when_the_block_fails():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_processes(1, threads=1) as submit:
        submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20


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
