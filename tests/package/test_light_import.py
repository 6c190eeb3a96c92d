"""Importing the package and asking the command line for help must not load what takes seconds."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "nltk",
    "bert_score",
    "sklearn",
    "pyarrow",
    "pandas",
)


def loaded_modules(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('LOADED', *sorted(m.partition('.')[0] for m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import grpo_mmpc",
        "import grpo_mmpc.config, grpo_mmpc.tasks.task, grpo_mmpc.types, grpo_mmpc.rewards",
        "import grpo_mmpc.cli\ntry: grpo_mmpc.cli.main(['--help'])\nexcept SystemExit: pass",
        "import grpo_mmpc.cli\ntry: grpo_mmpc.cli.main(['train', '--help'])\nexcept SystemExit: pass",
    ],
    ids=["package", "records", "help", "train-help"],
)
def test_nothing_heavy_is_loaded(code):
    assert not loaded_modules(code) & set(HEAVY)


def test_nothing_of_the_package_reaches_for_the_network_at_import():
    code = (
        "import socket\n"
        "socket.socket.connect = lambda *a: (_ for _ in ()).throw(AssertionError('network'))\n"
        "import grpo_mmpc, grpo_mmpc_rewards"
    )
    assert "grpo_mmpc" in loaded_modules(code)


def test_a_catalogue_without_downloads_loads_no_client_of_the_web():
    assert "aiohttp" not in loaded_modules("import grpo_mmpc.catalogue.sources.amazon_build")


@pytest.mark.slow
def test_checking_a_recipe_and_training_without_one_load_no_engine(tmp_path):
    code = (
        "from grpo_mmpc.cli import main\n"
        "from pathlib import Path\nfrom grpo_mmpc.nano.catalogue import build_catalogue\n"
        f"folder = build_catalogue(Path({str(tmp_path / 'c')!r}), num_items=90)\n"
        "assert main(['train', '--check', 'recipes/nano.yaml', f'data.catalogue={folder}', 'run_dir=none',\n"
        "             'trainer.gradient_accumulation_steps=1']) == 0\n"
        "import grpo_mmpc.training.trl_seams"
    )
    assert not loaded_modules(code) & {"vllm", "openai", "ray"}
