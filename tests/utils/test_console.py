"""Progress: a bar that leaves no trace on a terminal, a line now and then in a log file."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from grpo_mmpc.utils.console import Progress, quiet_when_redirected

SLOW_WORK = """
import sys, time
from grpo_mmpc.utils.console import Progress
with Progress() as progress:
    for done in range(5):
        progress("generating", done, 5, detail="reward [red]0.3")
        if done == 2:
            print("written to " + "x" * 100)
            print("a warning", file=sys.stderr)
        time.sleep(0.15)
    progress("reading", 7)
print("end")
"""


def test_in_a_log_file_slow_work_says_how_far_it_is_and_that_it_still_goes_on(capsys):
    with Progress(every_seconds=0.1) as progress:
        progress("generating", 10, 40)
        time.sleep(0.05)
        progress("generating", 1012, 4000, detail="reward 0.3")
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert not out
    first, *others = err.splitlines()
    assert re.fullmatch(r"generating: 1,012/4,000, \d+\.\d/s, 0:\d\d left, reward 0\.3", first)
    assert others  # of the same state: nothing came in between


def test_work_of_which_nothing_can_be_counted_shows_its_detail_instead_of_a_clock_that_stands(capsys):
    with Progress(every_seconds=0.1) as progress:
        progress("checking", 0, detail="model, with PyTorch")
        time.sleep(0.15)
    assert capsys.readouterr().err == "checking: model, with PyTorch\n"


def test_what_was_done_before_does_not_count_as_speed(capsys):
    with Progress(every_seconds=0.1) as progress:
        progress("resumed", 100, 200)
        time.sleep(0.15)
    assert capsys.readouterr().err == "resumed: 100/200, 0 s\n"


def test_work_that_ends_soon_or_has_ended_prints_nothing(capsys):
    progress = Progress(every_seconds=0.1)
    for done in range(4):
        progress("quick", done, 3)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_bar_is_seen_and_only_what_was_printed_stays():
    written: list[bytes] = []

    def keep(descriptor: int) -> bytes:
        written.append(os.read(descriptor, 1024))
        return b"."  # the test's own output is no terminal

    pty.spawn([sys.executable, "-c", SLOW_WORK], keep)
    text = b"".join(written).decode()
    assert re.search(r"generating .*3/5, [\d.]+/s, 0:\d\d left, reward \[red\]0\.3", text)
    assert "reading" in text
    assert screen(text) == ["written to " + "x" * 100, "a warning", "end"]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end."""
    lines, row, column = [""], 0, 0
    for code, argument, letter in re.findall(r"(\x1b\[([?0-9;]*)[a-zA-Z])|(.|\n|\r)", text):
        if code.endswith("A"):
            row -= int(argument or 1)
        elif code.endswith("K"):
            lines[row] = "" if argument == "2" else lines[row][:column]
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif letter:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return [line for line in lines if line.strip()]


CALLED_LIBRARIES = """
import os, warnings
os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
from grpo_mmpc.utils.console import quiet_libraries
quiet_libraries()
for module in ("huggingface_hub.utils._validators", "my_rewards"):
    warnings.warn_explicit("of " + module, UserWarning, "file.py", 1, module=module)
print(*(os.environ[name] for name in ("VLLM_LOGGING_LEVEL", "TORCH_CPP_LOG_LEVEL", "HF_HUB_VERBOSITY")))
"""


def test_libraries_say_nothing_about_each_other_unless_the_user_asks_and_his_own_code_is_heard():
    unset = {
        name: value for name, value in os.environ.items() if name not in ("TORCH_CPP_LOG_LEVEL", "HF_HUB_VERBOSITY")
    }
    done = subprocess.run([sys.executable, "-c", CALLED_LIBRARIES], capture_output=True, text=True, env=unset)
    assert done.stdout == "INFO ERROR error\n"
    assert "of my_rewards" in done.stderr and "huggingface_hub" not in done.stderr


@pytest.mark.parametrize(("rank", "is_shown"), [("0", True), ("1", False)])
def test_one_rank_of_many_shows_how_far_the_weights_are_loaded(monkeypatch, rank, is_shown):
    from transformers.utils import logging

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    logging.enable_progress_bar()
    try:
        quiet_when_redirected()
        assert logging.is_progress_bar_enabled() is is_shown
    finally:
        logging.enable_progress_bar()


WIDE_LINES = """
import os
os.environ["COLUMNS"] = "40"
from grpo_mmpc.utils.console import Progress, printer
say = printer(True)
say("evaluated base: bleu 0.127, bertscore_f1 0.632, parse_rate 1.000")
say("next: grpo-mmpc compare runs/demo/evaluations/base runs/demo/evaluations/final")
say("error: x.csv holds no rows; give one that grpo-mmpc complete has written, see them with: grpo-mmpc data "
    "validate 'my, x', or leave them out; `grpo-mmpc serve RECIPE` derives it (grpo-mmpc report --out FILE) and run: "
    "pip install 'grpo-mmpc[vllm, ray]', or not")
say("grpo-mmpc rewards preview: error: these arguments are required: --catalogue")
say("problems:\\n  - rates is a number, expected a list of some")
say("loading nano with checkpoint-45 of demo ...")
say("x hub         the model is not in the cache of this machine")
say("GiB a GPU     ddp   zero2   zero3   fsdp2 and offloaded")
with Progress() as progress:
    progress("training", 1, 45, detail="reward 0.766 bleu 0.278 bertscore 0.689")
"""


def test_on_a_terminal_lines_break_at_words_but_commands_stay_whole_and_a_bar_keeps_its_name():
    written: list[bytes] = []

    def keep(descriptor: int) -> bytes:
        written.append(os.read(descriptor, 1024))
        return b"."

    pty.spawn([sys.executable, "-c", WIDE_LINES], keep)
    lines = b"".join(written).decode().replace("\r", "").split("\n")
    assert lines[:2] == ["evaluated base: bleu 0.127, bertscore_f1", "  0.632, parse_rate 1.000"]
    assert lines[2:4] == ["next:", "  grpo-mmpc compare runs/demo/evaluations/base runs/demo/evaluations/final"]
    assert lines[4:13] == [
        "error: x.csv holds no rows; give one",
        "  that grpo-mmpc complete has written,",
        "  see them with:",
        "  grpo-mmpc data validate 'my, x', or",
        "  leave them out;",
        "  `grpo-mmpc serve RECIPE` derives it",
        "  (grpo-mmpc report --out FILE) and run:",
        "  pip install 'grpo-mmpc[vllm, ray]', or",
        "  not",
    ]
    assert lines[13:15] == ["grpo-mmpc rewards preview: error: these", "  arguments are required: --catalogue"]
    assert lines[15:18] == ["problems:", "  - rates is a number, expected a list", "    of some"]
    assert lines[18:20] == ["loading nano with checkpoint-45 of", "  demo ..."]
    assert lines[20:22] == ["x hub         the model is not in the", "              cache of this machine"]
    assert lines[22:24] == ["GiB a GPU     ddp   zero2   zero3", "  fsdp2 and offloaded"]  # no label: a table
    assert re.search(r"training ━+ 1/45, 0 s…", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", lines[24]))
