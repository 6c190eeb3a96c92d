"""What a preview leaves on disk: ``preview.json``, ``preview.csv``, ``preview.html``."""

import csv
import io
import json
from pathlib import Path

from grpo_mmpc.analysis.reward_bench.results import Preview
from grpo_mmpc.reports.reward_bench.page import page
from grpo_mmpc.utils.files import write_text

_COLUMNS = ("task", "reward", "kind", "n", "mean", "auc", "wins", "earned")


def write_files(preview: Preview, folder: Path) -> list[Path]:
    """Write all three; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "preview.json": json.dumps(preview.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "preview.csv": _csv(preview),
        "preview.html": page(preview),
    }
    paths = []
    for name, text in content.items():
        path = folder / name
        write_text(path, text)
        paths.append(path)
    return paths


def _csv(preview: Preview) -> str:
    """One row for each task, reward and kind; an empty cell where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for reward in preview.rewards:
        for task, result in reward.tasks.items():
            for kind, found in result.kinds.items():
                numbers = (
                    "" if value is None else f"{value:.6g}"
                    for value in (found.mean, found.auc, found.wins, found.earned)
                )
                writer.writerow([task, reward.name, kind, found.n, *numbers])
    return text.getvalue()
