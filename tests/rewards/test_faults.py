"""Rewards that hang, die, leak or are random: the run goes on or stops, and the log names them."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards import RewardMix, build_reward, load_factory
from grpo_mmpc.rewards.isolated import _without_images
from grpo_mmpc.rewards.worker import Fit, Prepare, Score
from grpo_mmpc.tasks import IMAGE_TO_TEXT

FAULTY = Path(__file__).parent / "faulty_rewards.py"
ISOLATED = pytest.mark.parametrize("isolated", [False, True], ids=["thread", "process"])


def batch(*titles: str) -> dict:
    n = len(titles)
    return {
        "prompts": ["p"] * n,
        "completions": [IMAGE_TO_TEXT.answer(title) for title in titles],
        "task": ["image_to_text"] * n,
        "prompt_id": ["p"] * n,
        "item_id": ["i"] * n,
        "category": ["c"] * n,
        "reference": ["red kettle"] * n,
        "image_path": [None] * n,
    }


@pytest.fixture
def mixes():
    """Builds mixes of the faulty rewards, each beside one that works; ends their processes."""
    built = []

    def build(name: str, *, on_error="unscored", **spec) -> RewardMix:
        specs = [
            RewardSpec(name=f"{FAULTY}:{name}", weight=1.0, **spec),
            RewardSpec(name="json_format", weight=1.0),
        ]
        built.append(RewardMix.from_specs(specs, on_error=on_error))
        return built[-1]

    yield build
    for mix in built:
        mix.close()


@ISOLATED
def test_a_reward_that_hangs_is_unscored_after_its_time_limit_and_the_others_count(mixes, isolated, caplog):
    limit = 8.0 if isolated else 0.5  # a process has to start first
    mix = mixes("hanging", isolated=isolated, time_limit=limit, kwargs={"seconds": limit + 30})
    start = time.monotonic()
    scored = mix.score(**batch("hang", "kettle"))
    assert time.monotonic() - start < limit + 15
    assert scored.raw == {"hanging": [None, None], "json_format": [1.0, 1.0]}
    assert scored.failed["hanging"] == 2
    assert mix.errors == {"hanging": 2}
    assert (
        "reward 'hanging' failed on 2 completions, which count as unscored: "
        f"took longer than its time limit of {limit:g} s" in caplog.text
    )


def test_a_hanging_thread_stays_unscored_until_it_comes_back_and_its_late_answer_is_dropped(mixes):
    mix = mixes("hanging", time_limit=0.3, kwargs={"seconds": 2.0})
    assert mix.score(**batch("hang")).raw["hanging"] == [None]
    start = time.monotonic()
    assert mix.score(**batch("kettle")).raw["hanging"] == [None]
    assert time.monotonic() - start < 0.3  # not waited for again
    time.sleep(2.2)
    assert mix.score(**batch("kettle", "pan")).raw["hanging"] == [1.0, 1.0]


def test_a_hanging_process_is_killed_and_the_next_batch_is_scored(mixes):
    mix = mixes("hanging", isolated=True, time_limit=8.0, kwargs={"seconds": 300.0})
    assert mix.score(**batch("hang")).raw["hanging"] == [None]
    assert mix.score(**batch("kettle")).raw["hanging"] == [1.0]


@ISOLATED
def test_a_missed_time_limit_stops_the_run_if_errors_do(mixes, isolated):
    limit = 8.0 if isolated else 0.2
    mix = mixes("hanging", on_error="raise", isolated=isolated, time_limit=limit, kwargs={"seconds": limit + 30})
    with pytest.raises(
        RewardError, match=f"'hanging' failed on 1 completions: took longer than its time limit of {limit:g} s"
    ):
        mix.score(**batch("hang"))


def test_a_reward_that_ends_its_process_is_named_with_the_exit_code_and_started_again(mixes, caplog):
    mix = mixes("dying", isolated=True)
    assert mix.score(**batch("kettle")).raw["dying"] == [1.0]
    assert mix.score(**batch("die", "kettle")).raw["dying"] == [None, None]
    assert (
        "reward 'dying' failed on 2 completions, which count as unscored: its process died (exit code 3)" in caplog.text
    )
    assert mix.score(**batch("kettle")).raw["dying"] == [1.0]


def test_a_reward_that_exits_in_a_thread_does_not_take_the_thread_with_it(mixes, caplog):
    mix = mixes("dying", kwargs={"how": "exit"})
    assert mix.score(**batch("die")).raw["dying"] == [None]
    assert "raised SystemExit('gone')" in caplog.text
    assert mix.score(**batch("kettle")).raw["dying"] == [1.0]


def test_a_leak_is_reported_with_the_name_of_the_reward(mixes, caplog):
    mix = mixes("leaking")
    for titles in (["kettle"], ["leak"]):
        mix.score(**batch(*titles))
    # json_format, which runs beside it, may be named too: threads share their memory, and the
    # message says so.
    [message] = [r.message for r in caplog.records if r.message.startswith("reward 'leaking'")]
    assert "memory has grown by more than 512 MB while it ran, perhaps by a reward that ran beside it" in message


def test_the_process_of_a_leaking_reward_is_ended_and_started_again(mixes, caplog):
    mix = mixes("leaking", isolated=True)
    assert [mix.score(**batch(title)).raw["leaking"] for title in ("kettle", "leak", "kettle")] == [[0.0], [1.0], [0.0]]
    assert "reward 'leaking': memory has grown by more than 512 MB in its process, which was ended" in caplog.text


def test_a_random_reward_is_found_out_by_equal_completions_of_one_prompt(mixes, caplog):
    mix = mixes("lucky")
    assert None not in mix.score(**batch("kettle", "pan")).raw["lucky"]
    assert "not deterministic" not in caplog.text
    mix.score(**batch("kettle", "pan", "kettle"))
    mix.score(**batch("kettle", "kettle"))
    messages = [r.message for r in caplog.records if "not deterministic" in r.message]
    assert len(messages) == 1  # said once
    assert "reward 'lucky' is not deterministic: it gave 2 and 4 to the same completion of p" in messages[0]
    assert "its randomness is trained on as if it were signal" in messages[0]


@ISOLATED
def test_a_corpus_reaches_rewards_that_ask_for_it_also_in_a_process_that_was_started_again(mixes, isolated):
    mix = mixes("with_corpus", isolated=isolated)
    mix.fit(["kettle", "pan"])
    assert mix.score(**batch("kettle", "spoon")).raw["with_corpus"] == [1.0, 0.0]
    mix.close()
    assert mix.score(**batch("pan")).raw["with_corpus"] == [1.0]


def test_rewards_that_wait_overlap(mixes):
    slow = {"weight": 1.0, "kwargs": {"seconds": 0.5}, "name": f"{FAULTY}:hanging"}
    copies = [RewardSpec(**slow) for _ in range(4)]
    rewards = [build_reward(spec) for spec in copies]
    mix = RewardMix([dataclasses.replace(reward, name=f"r{i}") for i, reward in enumerate(rewards)])
    scored = mix.score(**batch("hang"))
    assert scored.waited < 1.5  # one after the other would take 2 seconds
    assert all(0.4 < seconds < 1.5 for seconds in scored.seconds.values())


def test_memory_that_comes_and_goes_is_no_leak(mixes, caplog):
    mix = mixes("swinging")
    for _ in range(8):
        mix.score(**batch("kettle"))
    assert "memory has grown" not in caplog.text


def test_a_timeout_of_the_rewards_own_is_told_as_it_is(mixes, caplog):
    mix = mixes("own_timeout")
    assert mix.score(**batch("kettle")).raw["own_timeout"] == [None]
    assert "TimeoutError: the judge did not answer" in caplog.text
    assert "time limit" not in caplog.text


@ISOLATED
def test_a_generator_will_do_in_a_thread_and_in_a_process(mixes, isolated):
    assert mixes("generating", isolated=isolated).score(**batch("kettle")).raw["generating"] == [6.0]


def test_a_process_that_is_killed_while_it_prepares_does_not_begin_what_was_queued(mixes):
    mix = mixes("slow_to_prepare", isolated=True, time_limit=5.0)
    columns = {key: value for key, value in batch("kettle").items() if key != "completions"}
    columns["prompt"] = columns.pop("prompts")
    mix.prepare([{key: value[0] for key, value in columns.items()}])
    start = time.monotonic()
    assert mix.score(**batch("kettle")).raw["slow_to_prepare"] == [None]
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_do_not_reach_the_process_of_an_isolated_reward(mixes, number):
    """The trainer finishes its step before it saves, and needs the reward for that."""
    mix = mixes("hanging", isolated=True, kwargs={"seconds": 2.0})
    mix.score(**batch("kettle"))
    child = mix._executor._workers["hanging"].host._child
    timer = threading.Timer(0.5, signal_all, (child._supervisor.pid, number))
    timer.start()
    assert mix.score(**batch("hang")).raw["hanging"] == [1.0]
    assert child.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_end_the_process_of_an_isolated_reward_while_it_starts(mixes, number):
    mix = mixes("dying", isolated=True)
    host = mix._executor._workers["dying"].host
    found = {}
    scoring = threading.Thread(target=lambda: found.update(mix.score(**batch("kettle")).raw))
    scoring.start()
    while host._child is None:
        time.sleep(0.001)
    for _ in range(50):  # over all of its start
        signal_all(host._child._supervisor.pid, number)
        time.sleep(0.02)
    scoring.join()
    assert found["dying"] == [1.0]


def test_what_an_isolated_reward_starts_can_be_ended_as_usual(mixes):
    assert mixes("with_helper", isolated=True).score(**batch("kettle")).raw["with_helper"] == [-signal.SIGTERM]


def test_what_an_isolated_reward_leaves_running_ends_with_it(mixes):
    mix = mixes("forking", isolated=True)
    [pid] = mix.score(**batch("kettle")).raw["forking"]
    assert is_alive(int(pid))
    mix.close()
    deadline = time.monotonic() + 30  # a killed process ends when the machine gets to it
    while is_alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(int(pid))


def signal_all(pid: int, number: int) -> None:
    """Signal a process and those below it, as Slurm does."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        signal_all(int(child), number)
    os.kill(pid, number)


def in_a_fresh_process(folder: Path, *lines: str, status: int = 0) -> str:
    """Run a program that knows ``RewardMix``, ``RewardSpec`` and ``batch``; return its output."""
    script = folder / "program.py"
    head = (
        "import os, sys, time",
        "from grpo_mmpc.config import RewardSpec",
        "from grpo_mmpc.rewards import RewardMix",
        "if __name__ == '__main__':",
        f"    sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "    from test_faults import batch",
    )
    script.write_text("\n".join([*head, *(f"    {line}" for line in lines), ""]))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_a_program_that_forgets_to_close_its_mix_ends_all_the_same(tmp_path):
    spec = f"RewardSpec(name={f'{FAULTY}:dying'!r}, weight=1.0, isolated=True)"
    said = in_a_fresh_process(tmp_path, f"print(RewardMix.from_specs([{spec}]).score(**batch('kettle')).raw)")
    assert said == "{'dying': [1.0]}\n"


def test_an_interrupted_program_lets_a_reward_leave_its_library_before_it_ends(tmp_path):
    spec = f"RewardSpec(name={f'{FAULTY}:interrupting'!r}, weight=1.0)"
    said = in_a_fresh_process(
        tmp_path,
        "try:",
        f"    RewardMix.from_specs([{spec}]).score(**batch('kettle'))",
        "except KeyboardInterrupt:",
        "    sys.exit(130)",
        status=130,
    )
    assert said == "left the reward\n"


def test_the_process_of_an_isolated_reward_ends_with_a_program_that_is_killed(tmp_path):
    spec = f"RewardSpec(name={f'{FAULTY}:dying'!r}, weight=1.0, isolated=True)"
    said = in_a_fresh_process(
        tmp_path,
        f"mix = RewardMix.from_specs([{spec}])",
        "mix.score(**batch('kettle'))",
        "print(mix._executor._workers['dying'].host._child._supervisor.pid, flush=True)",
        "os.kill(os.getpid(), 9)",
        status=-signal.SIGKILL,
    )
    deadline = time.monotonic() + 15
    while is_alive(int(said)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(int(said))


def is_alive(pid: int) -> bool:
    """Tell a running process from one that has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_thread_may_import_torch_while_another_one_is_started(tmp_path):
    """Half of torch is in sys.modules while it is imported, when the GPU in use is asked for."""
    said = in_a_fresh_process(
        tmp_path,
        f"names = ['{FAULTY}:importing_torch', 'json_format', '{FAULTY}:generating']",
        "mix = RewardMix.from_specs([RewardSpec(name=name, weight=1.0) for name in names])",
        "data = batch('kettle')",
        "row = {key: value[0] for key, value in data.items() if key != 'completions'}",
        "mix.prepare([row | {'prompt': row.pop('prompts')}])",
        "while 'torch' not in sys.modules:",
        "    time.sleep(0.001)",
        "half = 'torch' in sys.modules and not hasattr(sys.modules['torch'], 'cuda')",
        "print(half, mix.score(**data).raw)",
    )
    assert said == "True {'importing_torch': [1.0], 'json_format': [1.0], 'generating': [6.0]}\n"


def test_what_rewards_with_encoders_import_is_there_before_their_threads_start(tmp_path):
    said = in_a_fresh_process(
        tmp_path,
        f"mix = RewardMix.from_specs([RewardSpec(name='{FAULTY}:sees_heavy_modules', weight=1.0)])",
        "assert 'torch' not in sys.modules",
        "print(mix.score(**batch('kettle')).raw)",
    )
    assert said == "{'sees_heavy_modules': [1.0]}\n"


def test_images_in_prompts_do_not_travel_to_a_process():
    prompts = [[{"role": "user", "content": [{"type": "image", "image": object()}, {"type": "text", "text": "hi"}]}]]
    for kind in (Score, Prepare):
        assert _without_images(kind({"prompts": prompts, "tasks": ["t"]})) == kind(
            {
                "prompts": [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}]],
                "tasks": ["t"],
            }
        )
    assert "image" in prompts[0][0]["content"][0]
    assert _without_images(Fit(["kettle"])) == Fit(["kettle"])


@ISOLATED
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("dict", "returned dict, expected a list of 2 numbers or None"),
        ("set", "returned set, expected a list of 2 numbers or None"),
        ("huge", "int too large to convert to float"),
    ],
)
def test_what_only_looks_like_scores_is_unscored(mixes, isolated, what, said, caplog):
    mix = mixes("returning", isolated=isolated, kwargs={"what": what})
    assert mix.score(**batch("kettle", "pan")).raw == {"returning": [None, None], "json_format": [1.0, 1.0]}
    assert said in caplog.text


def test_a_reward_may_empty_the_lists_that_it_gets(mixes):
    assert mixes("emptying", on_error="raise").score(**batch("kettle", "pan")).raw["emptying"] == [6.0, 3.0]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"targets": "text"}, "targets is 'text', expected a tuple out of text, attributes, image"),
        ({"targets": ["title"]}, r"targets is \['title'\], expected a tuple"),
        ({"tasks": ("image_to_text",)}, "tasks says nothing; say which answers it scores"),
        ({"worst_score": "bad"}, "worst_score is 'bad', expected a finite number"),
        ({"worst_score": "nan"}, "worst_score is nan, expected a finite number"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_before_the_run(mixes, declared, said):
    with pytest.raises(RewardError, match=f"declaring': {said}"):
        mixes("declaring", kwargs=declared)


def test_a_factory_that_fails_is_named(mixes):
    with pytest.raises(RewardError, match="failing_factory': its factory failed: RuntimeError: no GPU here"):
        mixes("failing_factory")


def test_a_file_or_factory_that_exits_does_not_end_the_command_without_a_word(tmp_path):
    (tmp_path / "own.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(RewardError, match=r"importing .*own\.py failed: SystemExit: 3"):
        load_factory(f"{tmp_path}/own.py:factory")


@ISOLATED
def test_the_error_of_a_reward_shows_its_file_and_line(mixes, isolated, caplog):
    """The line of the reward itself, not that of the library which it called."""
    mix = mixes("misusing_json", isolated=isolated)
    assert mix.score(**batch("kettle")).raw["misusing_json"] == [None]
    line = FAULTY.read_text().splitlines().index('        json.loads("{")') + 1
    assert f"({FAULTY}, line {line})" in caplog.text
