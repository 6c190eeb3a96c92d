"""Imports next to a torch without CUDA, in either order."""

import subprocess
import sys

import pytest
import torch

from grpo_mmpc.utils.cpu_compat import load_to_numbered_cpus, repair_environment

CODE = """
import datasets
from grpo_mmpc.utils.cpu_compat import ensure_importable
rows = datasets.Dataset.from_dict({"title": ["mug"]})
ensure_importable()
import transformers
print(datasets.Dataset.from_dict({"title": ["mug", "bag"]})[1]["title"], rows[0]["title"])
"""


@pytest.mark.parametrize("first", ["datasets", "models"])
def test_data_sets_can_be_read_whichever_was_imported_first(first):
    lines = CODE.strip().splitlines()
    if first == "models":
        lines = ["from grpo_mmpc.utils.cpu_compat import ensure_importable", "ensure_importable()", *lines]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["bag", "mug"], done.stderr[-2000:]


def test_the_console_script_of_accelerate_starts_where_timm_is_installed(tmp_path, monkeypatch):
    """It imports timm, and so torchvision, before anything of ours runs: what ``make env`` writes
    into site-packages comes first."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torchvision loads beside this torch")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert repair_environment() == tmp_path / "grpo_mmpc_cpu.pth"
    script = (
        f"import site, sys; site.addsitedir({str(tmp_path)!r})\n"
        "sys.argv = ['accelerate', 'launch', '--cpu', '--num_processes', '1', '-m', 'grpo_mmpc', '--version']\n"
        "from accelerate.commands.accelerate_cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("grpo-mmpc ")


def test_a_package_that_loads_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "torchaudio.py").write_text("value = 3")
    (tmp_path / "torchcodec.py").write_text("raise ValueError('a fault of its own')")
    script = (
        "from grpo_mmpc.utils.cpu_compat import ensure_importable\n"
        "ensure_importable(); ensure_importable()\n"
        "import torchaudio\nprint(torchaudio.value)\nimport torchcodec"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3"]
    assert "a fault of its own" in done.stderr


def test_a_tensor_is_loaded_to_the_numbered_cpu_of_a_launched_process(tmp_path):
    torch.save({"step": torch.tensor([3.0])}, tmp_path / "optimizer.pt")
    load_to_numbered_cpus()
    load_to_numbered_cpus()  # the next run of the same process
    loaded = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0), weights_only=True)
    assert loaded["step"].item() == 3.0
