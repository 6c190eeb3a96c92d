"""Every command that README, docs, recipes and launch files name: it parses, and does its work in a
fresh process, as a user starts it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from grpo_mmpc.cli import parse_arguments
from tests.completion.completed import write_completed

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WRITTEN_BY_THE_READER = ("my_mix.yaml", "my_recipe.yaml", "runs/nano/config.yaml")


def documented() -> list[str]:
    """Return the lines that start one of our commands, placeholders such as DIR included."""
    lines = []
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            lines += [re.sub(r"\s+#.*", "", line) for line in block.replace("\\\n", " ").splitlines()]
    for file in [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("launch/accelerate/*.yaml")]:
        text = re.sub(r"\\\n#?\s*", " ", file.read_text("utf-8"))
        lines += [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    starts = r"(?:[A-Z_]+=\S+ )*(?:grpo-mmpc|accelerate launch .*-m grpo_mmpc) "
    return list(dict.fromkeys(line.strip() for line in lines if re.match(starts, line.strip())))


def own_words(line: str) -> list[str]:
    return shlex.split(re.split(r"grpo-mmpc |-m grpo_mmpc ", line, maxsplit=1)[1])


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_parses_and_names_files_that_exist(line: str) -> None:
    words = own_words(line)
    parse_arguments(words)
    files = [word for word in words if word.endswith(".yaml") and "=" not in word]
    files += re.findall(r"--config_file (\S+)", line)
    for file in files:
        assert file in WRITTEN_BY_THE_READER or (ROOT / file).is_file(), file


def start(*command: str, cwd: Path, status: int = 0) -> str:
    """Run a command in a fresh process; return what it said."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{said[-4000:]}"
    assert "Traceback" not in said, said[-4000:]
    return said


def checked() -> list[str]:
    """Return what is checked of documented runs: a command once, whatever launches it.

    One that begins from a checkpoint needs the run of the command before it.
    """
    words = [[word for word in own_words(line) if word not in ("--resume", "--check")] for line in documented()]
    runs = [shlex.join(one).replace("=DIR", "=my_catalogue") for one in words if one[0] in ("train", "ablate")]
    return [run for run in dict.fromkeys(runs) if "=runs/" not in run or "/checkpoints/" not in run]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", checked())
def test_a_documented_recipe_passes_its_check_as_it_is_started(command: str, tmp_path: Path, nano_folder: Path) -> None:
    for name in ("recipes", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = [word.replace("my_catalogue", str(nano_folder)) for word in shlex.split(command)]
    if set(words) & set(WRITTEN_BY_THE_READER):
        pytest.skip("names a file that the reader writes; the story below does so")
    said = start("grpo-mmpc", *words, "--check", cwd=tmp_path)
    assert said.endswith("ok\n") or words[0] == "ablate"


@pytest.fixture(scope="module")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano") / "catalogue"
    start("grpo-mmpc", "data", "nano", "--out", str(folder), "--num-items", "90", cwd=folder.parent)
    return folder


@pytest.mark.slow
def test_the_documented_review(tmp_path: Path) -> None:
    write_completed(tmp_path / "completed")
    lines = [line for line in documented() if own_words(line)[:2] == ["review", "completed"]]
    pages = [line for line in lines if "--" not in line]
    assert len(pages) == 1 and len(lines) == 5
    command = [str(BIN / word) if word == "grpo-mmpc" else word for word in shlex.split(pages[0])]
    served = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    for line in served.stdout:
        if line.startswith("Review: "):
            page = urlopen(line.split()[1], timeout=60).read().decode()
        if line.startswith("The address is the key"):
            served.send_signal(signal.SIGINT)
    assert served.wait(60) == 0 and "Acme Kettle, Blue" not in page and "B2" in page
    (tmp_path / "decisions.jsonl").write_text("")
    for line in lines:
        if line not in pages:
            start(*shlex.split(line), cwd=tmp_path)
    assert "nothing is broken" in start("grpo-mmpc", "data", "validate", "reviewed", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readme_from_top_to_bottom_and_what_follows(tmp_path: Path, nano_folder: Path) -> None:
    """One newcomer, one working directory: each command as the README has it, with fewer steps."""
    for name in ("recipes", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    readme = (ROOT / "README.md").read_text("utf-8")
    (tmp_path / "my_catalogue").symlink_to(nano_folder)
    (tmp_path / "my_rewards.py").write_text(re.search(r"```python\n(# my_rewards.py.*?)```", readme, re.DOTALL)[1])
    (tmp_path / "my_mix.yaml").write_text(re.search(r"```yaml\n(tasks:.*?)```", readme, re.DOTALL)[1])
    quick = ["evaluation.max_items=9", "evaluation.controls=[]", "evaluation.resamples=100"]

    def run(line: str, *more: str) -> str:
        return start(*shlex.split(line), *more, cwd=tmp_path)

    assert "nothing is broken" in run("grpo-mmpc data validate my_catalogue")
    train = "grpo-mmpc train recipes/nano.yaml data.catalogue=my_catalogue run_dir=runs/mine trainer.max_steps=2"
    assert "report.html" in run(train, "trainer.save_steps=2", *quick)
    run("grpo-mmpc report runs/mine")
    second = next(line for line in documented() if "my_mix.yaml" in line)
    run(second.replace("max_steps=10", "max_steps=2"), *quick)
    steps = [json.loads(line) for line in (tmp_path / "runs/my_reward/metrics.jsonl").read_text().splitlines()]
    assert any("brand_match" in key for step in steps for key in step)
    checkpoint = "runs/mine/checkpoints/checkpoint-2"
    evaluate = "grpo-mmpc evaluate recipes/nano.yaml data.catalogue=my_catalogue run_dir=runs/mine --checkpoint"
    of_run = "runs/mine/evaluations"
    assert f"next: grpo-mmpc compare {of_run}/base/cqbench {of_run}/checkpoint-2/cqbench\n" in run(
        f"{evaluate} {checkpoint}", *quick
    )
    run("grpo-mmpc compare runs/mine/evaluations/base/cqbench runs/mine/evaluations/final/cqbench --by-category")
    run("grpo-mmpc rescore runs/mine --mix recipes/mixes/nano/bleu.yaml")
    run("grpo-mmpc score --predictions runs/mine/evaluations/base --references my_catalogue --metrics bleu,token_f1")
    run("grpo-mmpc data mask my_catalogue --out masked --rate 0.1")
    assert "filled" in run(f"grpo-mmpc complete masked --checkpoint {checkpoint} --out completed")
    assert "all of them had been filled before" in run(
        f"grpo-mmpc complete masked --checkpoint {checkpoint} --out completed"
    )
    run("grpo-mmpc score --predictions completed --references my_catalogue --metrics token_f1")
    recbench = "grpo-mmpc recbench recipes/recbench/nano.yaml --catalogue my_catalogue --completed mine=completed"
    assert re.search(
        "Completed by mine +.* 100%", run(recbench, "rates=[0.1]", "training.max_epochs=2", "seeds=[0]"), re.I
    )
    assert "completion.html" in run("grpo-mmpc report completed")
    run("grpo-mmpc review completed --html review.html")
    assert "nothing is broken" in run("grpo-mmpc data validate completed")
    run("grpo-mmpc rewards list")
    run("grpo-mmpc rewards new my_own")
    run("grpo-mmpc ablate recipes/ablations/nano_reward_mixes.yaml --check")
    run("grpo-mmpc serve recipes/nano.yaml --print", "rollout.backend=vllm")
    launched = "accelerate launch --config_file launch/accelerate/multi_cpu.yaml -m grpo_mmpc train recipes/nano.yaml"
    fewer = [
        "trainer.per_device_train_batch_size=32",
        "trainer.max_steps=1",
        "run_dir=runs/two",
        "data.catalogue=my_catalogue",
    ]
    run(launched, *fewer, *quick)
