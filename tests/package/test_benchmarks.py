"""Every benchmark still runs, agrees with what it is compared with, and ends in one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_the_quick_setting_ends_in_results_whose_checks_hold(script):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = json.loads(done.stdout.splitlines()[-1])
    assert {"benchmark", "hardware", "versions", "results", "figures", "checks"} <= set(output)
    assert output["benchmark"] == Path(script).stem
    assert output["checks"]
    if script != "seeds.py":  # its two quick steps raise no metric
        assert all(output["checks"].values()), output["checks"]
