"""The page of the benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.recbench.report.views import recommendation_view
from grpo_mmpc.reports.common.labels import date
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.utils.files import write_text


def write_page(results: Mapping[str, Any], path: Path) -> Path:
    """Write ``results.json`` as a page that needs nothing else; return its path."""
    page = render_page(
        "recbench/report/page.html",
        subtitle=[results["catalogue"], f"{results['mode']} mode", date(results["finished"])],
        shown=recommendation_view(results),
        command=results["command"],
    )
    write_text(path, page)
    return path
