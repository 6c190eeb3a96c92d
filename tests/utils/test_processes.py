"""Children that end with their parent, whenever it ends, and signals that ask to stop."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_mmpc.utils import processes
from grpo_mmpc.utils.processes import Child, StopRequest, log_tail, stopped_by_signals

FAMILY = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "command").write_text(str(os.getpid()))
def on_signal(*_):
    (folder / "asked").touch()
    if "stubborn" not in sys.argv:
        sys.exit(7)
signal.signal(signal.SIGTERM, on_signal)
worker = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                           f"open({str(folder / 'worker_ready')!r}, 'w').close(); time.sleep(60)"])
(folder / "worker").write_text(str(worker.pid))
while not (folder / "worker_ready").exists():
    time.sleep(0.01)
print("ready", flush=True)
(folder / "ready").touch()
if "ends" in sys.argv:
    sys.exit(3)
time.sleep(60)
"""
"""A command whose worker outlives it unless it is killed."""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def start(folder: Path, *options: str, grace_s: float = 20.0, orphan_grace_s: float = 0.0) -> Child:
    return Child(
        [sys.executable, "-c", FAMILY, str(folder), *options],
        log=folder / "log",
        environment=os.environ,
        grace_s=grace_s,
        orphan_grace_s=orphan_grace_s,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("parent_lives", [True, False])
def test_a_child_dies_with_the_parent_that_started_it_and_not_before(parent_lives) -> None:
    parent = os.getpid() if parent_lives else os.getppid()  # the other is anybody but the one that started it
    code = f"from grpo_mmpc.utils.processes import die_with_parent; die_with_parent({parent}); print('lives')"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == ((0, "lives\n") if parent_lives else (-signal.SIGKILL, ""))


@pytest.mark.parametrize(("code", "status"), [("import sys; sys.exit(3)", 3), ("import os; os.abort()", 134)])
def test_the_exit_status_is_that_of_the_command(code, status) -> None:
    child = Child([sys.executable, "-c", code], log=None, environment=os.environ, grace_s=1)
    assert child.wait() == child.poll() == status


def test_a_command_that_ends_leaves_no_worker_behind(tmp_path) -> None:
    child = start(tmp_path, "ends")
    wait_for(lambda: (tmp_path / "ready").exists())
    wait_for(lambda: not is_running(int((tmp_path / "command").read_text())))
    child.kill()  # else twenty seconds pass before a worker that does not listen is killed
    assert child.wait() == 3
    assert not is_running(int((tmp_path / "worker").read_text()))
    assert log_tail(tmp_path / "log", lines=1) == "ready"


def test_a_command_that_is_asked_to_stop_ends_by_itself(tmp_path) -> None:
    child = start(tmp_path)
    wait_for(lambda: (tmp_path / "ready").exists())
    child.stop()
    wait_for(lambda: not is_running(int((tmp_path / "command").read_text())))
    child.kill()  # else twenty seconds pass before a worker that does not listen is killed
    assert child.wait() == 7


def test_one_that_does_not_listen_is_killed(tmp_path) -> None:
    child = start(tmp_path, "stubborn", grace_s=0.3)
    wait_for(lambda: (tmp_path / "ready").exists())
    child.stop()
    wait_for(lambda: (tmp_path / "asked").exists())
    assert child.wait() == 128 + signal.SIGKILL
    assert not is_running(int((tmp_path / "worker").read_text()))


@pytest.mark.parametrize("orphan_grace_s", [0.0, 1.0])
def test_nothing_survives_the_process_that_asked_for_it(tmp_path, orphan_grace_s) -> None:
    code = (
        "import os, pickle, sys, time; from pathlib import Path; from grpo_mmpc.utils.processes import Child\n"
        f"child = Child(*pickle.loads({pickle.dumps(([sys.executable, '-c', FAMILY, str(tmp_path)],))!r}), log=None,"
        f" environment=os.environ, grace_s=20, orphan_grace_s={orphan_grace_s})\n"
        "print(child._supervisor.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "ready").exists())
    assert parent.stdout is not None
    family = [int(parent.stdout.readline()), int((tmp_path / "worker").read_text())]
    assert all(map(is_running, family))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(is_running, family)), seconds=10)
    assert not orphan_grace_s or (tmp_path / "asked").exists()


def test_the_tail_of_a_log_leaves_out_blank_lines_and_what_was_overwritten(tmp_path) -> None:
    (tmp_path / "log").write_bytes(b"first\n10%\r20%\n\n  \nlast \xff\n")
    assert log_tail(tmp_path / "log", lines=3) == "10%\n20%\nlast �"
    assert log_tail(tmp_path / "none") == ""


def test_the_first_signal_asks_and_another_insists(capsys) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest("stopping").listening() as stop:
        for number, later, times in (
            (signal.SIGTERM, False, 1),
            (signal.SIGTERM, False, 1),  # the same one, passed on by a launcher
            (signal.SIGINT, True, 2),
            (signal.SIGTERM, True, 3),
        ):
            stop._latest -= 10.0 * later
            os.kill(os.getpid(), number)
            assert stop.times == times
    assert capsys.readouterr().out == "\nstopping\n"
    assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_another_signal_can_interrupt_at_once(number, monkeypatch) -> None:
    monkeypatch.setattr(processes, "SAME_REQUEST_S", 0.0)
    with StopRequest("stopping", raises=True).listening() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        assert stop.times == 1
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "listening", [stopped_by_signals, StopRequest("stopping", raises=True, patient=False).listening]
)
def test_a_signal_that_comes_while_an_object_is_freed_is_not_lost(listening) -> None:
    class Freed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            list(map(str, range(10)))  # what is raised in here, Python prints and forgets

    with pytest.raises(KeyboardInterrupt), listening():
        Freed()
        time.sleep(5)


def test_the_first_signal_interrupts_where_nothing_is_waited_for() -> None:
    with StopRequest("stopping", raises=True, patient=False).listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


COMMAND = [sys.executable, "-m", "grpo_mmpc", "data", "nano", "--out"]


@pytest.mark.parametrize(
    ("before", "number"),
    [("", signal.SIGTERM), ("", signal.SIGINT), ("trap '' INT HUP; ", signal.SIGTERM)],
    ids=["SIGTERM", "SIGINT", "SIGTERM under nohup"],
)
def test_a_command_that_a_signal_stops_says_how_to_go_on_and_leaves_nothing_half_written(
    tmp_path: Path, before: str, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = " ".join([*COMMAND, str(out)])
    with subprocess.Popen(
        ["bash", "-c", f"{before}exec {command}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(tmp_path.glob(".out.*/images/nano-00009.png")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped by {number.name}; go on with: python -m grpo_mmpc data nano --out {out}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_last_line_changes_no_exit_status_and_a_second_one_ends_the_process(
    number: signal.Signals,
) -> None:
    def ended_by(late: str) -> int:
        code = f"""
            import atexit, os, sys, threading, time
            def send():
                os.kill(os.getpid(), {int(number)})
            class Freed:
                __del__ = lambda self, send=send: send()
            def insist():
                while threading.main_thread().is_alive():
                    time.sleep(0.01)
                send(), time.sleep(0.3), send()
            {late}
            sys.argv[1:] = ["rewards", "list"]
            from grpo_mmpc.cli import program
            program()
            """
        return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True).returncode

    assert ended_by("atexit.register(send)") == 0
    assert ended_by("sys.freed_at_the_end = Freed()") == 0
    assert ended_by("threading.Thread(target=insist).start()") == -number


def test_a_folder_that_a_killed_command_left_is_removed_when_the_command_is_given_again(tmp_path: Path) -> None:
    command = [*COMMAND, str(tmp_path / "out"), "--num-items", "100"]
    with subprocess.Popen(command) as process:
        while not list(tmp_path.glob(".out.*/images/nano-00009.png")):
            assert process.poll() is None
        process.kill()
    assert len(list(tmp_path.iterdir())) == 1
    assert subprocess.run(command, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
