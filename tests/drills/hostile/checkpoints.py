"""Checkpoints of a run that is given again: damaged on their way, or somebody else's."""

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.drills.hostile.adapters import Command
from tests.drills.hostile.case import GOES_ON, NANO, REFUSED, Case, Group

TRAIN = (
    "run_dir=run trainer.max_steps=2 trainer.save_steps=1 trainer.per_device_train_batch_size=16 "
    "evaluation.before=false evaluation.checkpoints=false evaluation.max_items=9 evaluation.controls=[] "
    "evaluation.tasks=[image_to_text] report.enabled=false"
)


@cache
def _trained() -> Path:
    """Train two steps, a checkpoint after each; return the folder that holds the run."""
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-"))
    subprocess.run(
        [sys.executable, "-m", "grpo_mmpc", "train", str(NANO), *TRAIN.split()],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def spoilt(name: str, change: Callable[[Path], object], *, resealed: bool = False) -> Callable[[Path], object]:
    """The run, one file of its newest checkpoint changed; checksums too, where they are forged."""

    def make(folder: Path) -> None:
        from grpo_mmpc.utils.hashing import file_digest

        shutil.copytree(_trained() / "run", folder / "run")
        checkpoint = folder / "run/checkpoints/checkpoint-2"
        change(checkpoint / name)
        if resealed:
            shutil.rmtree(folder / "run/evaluations")
            sums = json.loads((checkpoint / "checksums.json").read_text())
            sums[name] = [(checkpoint / name).stat().st_size, file_digest(checkpoint / name)]
            (checkpoint / "checksums.json").write_text(json.dumps(sums))

    return make


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:99])


def other_shape(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


CHECKPOINTS = Group(
    title="Checkpoints",
    command=f"train $NANO {TRAIN}",
    outcome=GOES_ON,
    cases=[
        Case("no optimizer.pt", spoilt("optimizer.pt", Path.unlink), "passed over: optimizer.pt is missing"),
        Case("99 bytes of optimizer.pt", spoilt("optimizer.pt", cut), "passed over: optimizer.pt has 99 bytes"),
        Case(
            "99 bytes of the adapter",
            spoilt("adapter_model.safetensors", cut),
            "passed over: adapter_model.safetensors has 99 bytes",
        ),
        Case(
            "half of trainer_state.json",
            spoilt("trainer_state.json", cut),
            "passed over: trainer_state.json has 99 bytes",
        ),
        Case("half of checksums.json", spoilt("checksums.json", cut), "checksums.json or trainer_state.json cannot be"),
        Case(
            "an adapter of another shape",
            spoilt("adapter_model.safetensors", other_shape),
            "passed over: adapter_model.safetensors has",
        ),
        Case(
            "a pickle that runs a program, with the right checksum",
            spoilt("optimizer.pt", lambda path: path.write_bytes(pickle.dumps(Command())), resealed=True),
            "holds more than tensors and numbers, by which code could run",
            REFUSED,
        ),
    ],
)

GROUPS = [CHECKPOINTS]
