"""Frames as a terminal shows them, and the loop that shows them until the reader ends it."""

import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from rich.console import Console

from grpo_mmpc.reports.watch.live_run import find_runs
from grpo_mmpc.reports.watch.signals import sparkline
from grpo_mmpc.reports.watch.terminal import frame
from tests.reports.watch.runs import begin, hold, log, record, row

PROGRAM = (sys.executable, "-m", "grpo_mmpc", "watch")


@pytest.fixture
def run(tmp_path):
    folder = begin(tmp_path / "run")
    hold(folder)
    log(folder, *map(row, range(1, 5)))
    record(folder, 4)
    return folder


def shown(*folders, width=80):
    runs = find_runs(folders, wait=True)
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(frame([one.look(whole=len(runs) == 1) for one in runs], width=width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_a_frame_says_how_far_what_the_rewards_are_and_what_was_sampled_last(run, width):
    text = shown(run, width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "run  running  sampling completions for step 5"
    assert lines[1].endswith("step 4 of 10  3.0 s a step, about 18 s left")
    reward = next(line.split() for line in lines if line.startswith("reward "))
    # Means over the logged steps: 0.01 to 0.04.
    assert reward == ["reward", "▁▃▆█", "0.025", "±0.250", "50%"]
    bleu = next(line.split() for line in lines if line.startswith("bleu"))
    assert bleu == ["bleu", "0.5", "▁▃▆█", "0.050", "±0.125", "50%"]
    assert "memory at most 1.8 GiB" in " ".join(text.split())
    assert "Step 4, image to text, Mugs, a: 3 completions" in text and "prompt: Write the title." in text
    assert "2x  a red mug" in text and "malformed: {" in text


def test_several_runs_are_a_line_each_with_their_alarms_below(tmp_path, run):
    other = begin(tmp_path / "other", finished=True)
    log(other, *(row(step, dead_group_share=1.0) for step in range(1, 6)))
    lines = shown(run, other).splitlines()
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["run", "running", "4", "of", "10"],
        ["other", "finished!", "5", "of", "10"],
    ]
    assert lines[4].startswith("! other: No group has variance in steps 1 to 5")


def test_what_a_stranger_wrote_reaches_no_terminal_as_a_command(tmp_path):
    folder = begin(tmp_path / "run")
    hostile = "\x1b]0;owned\x07[bold red]x[/] \u202emug\r\x9b2J"
    record(folder, 1, texts=(hostile, "{"), category=hostile, prompt=hostile, item_id=hostile)
    log(folder, row(1))
    text = shown(folder)
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(text)
    assert "[bold red]x[/]" in text


def test_a_line_of_blocks_is_between_its_extremes_and_a_share_between_0_and_1():
    assert sparkline([0.0, None, 0.5, 1.0], width=9) == "▁ ▄█"
    assert sparkline([0.5, 0.5], width=9, is_share=True) == "▄▄"
    assert sparkline([1.0, 1.001], width=9) == "▁▁", "a change of a thousandth is no leap"
    assert sparkline([0.0, 0.0, 1.0, 1.0, None], width=3) == "▁█ "
    assert sparkline([0.0, 1.0], width=3, ascii_only=True) == "_#"
    assert sparkline([None], width=3) == ""


def test_once_prints_one_frame(run):
    done = subprocess.run([*PROGRAM, str(run), "--once"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("run  running") and "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "standard output is no terminal: add --once"),
        (["--once", "--port", "9"], "--port needs --serve"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, options, says):
    done = subprocess.run([*PROGRAM, str(run), *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and says in done.stderr


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_the_view_follows_the_run_until_q_or_ctrl_c_and_that_is_no_failure(run, key):
    ours, theirs = pty.openpty()
    command = subprocess.Popen([*PROGRAM, str(run)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        read_until(ours, "step 4 of 10")
        log(run, row(5))
        read_until(ours, "step 5 of 10")
        if key == b"\x03":  # the terminal of a shell makes a signal of it
            command.send_signal(2)
        else:
            os.write(ours, key)
        assert "\x1b[?1049l" in read_until(ours, "\x1b[?1049l"), "the screen of before is back"
        assert command.wait(timeout=60) == 0
    finally:
        command.kill()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Read what a terminal is sent until a text comes, for a minute at most."""
    end, sent = time.monotonic() + 60, ""
    while text not in sent and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            sent += os.read(terminal, 65536).decode(errors="replace")
    assert text in sent, sent[-2000:]
    return sent
