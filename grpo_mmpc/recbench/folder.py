"""The folder of a benchmark: whose it is, and one command at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.cells import CELLS, FEATURES, SPLITS
from grpo_mmpc.utils.faults import try_folder
from grpo_mmpc.utils.files import names_in, remove_partial
from grpo_mmpc.utils.locks import hold, in_use

LOCK = "recbench.lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for the duration of a block; remove what a killed command was writing there.

    Raises:
        RecBenchError: Another process holds it, or it is the folder of something else.
        OSError: It cannot be written.
    """
    names = sorted(names_in(folder))
    if names and not {LOCK, SPLITS, CELLS} & {*names}:
        raise RecBenchError(f"--out {folder} holds {names[0]}, which is not of recbench; name an empty or new folder")
    with hold(folder / LOCK, refuse=in_use(folder, RecBenchError, command="recbench", instead="name another --out")):
        for place in (folder, *(folder / name for name in (SPLITS, FEATURES, CELLS))):
            try_folder(place)
        remove_partial(folder)
        yield
