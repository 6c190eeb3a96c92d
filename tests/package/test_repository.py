"""Nothing in the repository depends on where it was written."""

import configparser
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\n") if name]


def test_embedded_assets_stay_below_25_megabytes():
    assets = ROOT / "grpo_mmpc" / "nano" / "assets"
    assert sum(file.stat().st_size for file in assets.rglob("*") if file.is_file()) < 25_000_000


def test_no_other_file_is_larger_than_a_megabyte():
    large = [f for f in tracked_files() if f.is_file() and f.suffix != ".safetensors" and f.stat().st_size > 1_000_000]
    assert large == []


def test_every_package_is_installed_and_nothing_else() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "grpo_mmpc").rglob("__init__.py")} | {
        "grpo_mmpc_rewards"
    }
    assert set(parser["options"]["packages"].split()) == there
