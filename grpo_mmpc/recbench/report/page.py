"""The benchmark's own page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.recbench.report.views import recommendation_view
from grpo_mmpc.reports.common.labels import date
from grpo_mmpc.reports.common.templates import style, template
from grpo_mmpc.utils.files import write_text

STYLES = ("reports/common/style.css", "recbench/report/recommendation.css")
"""Of every page that shows the benchmark."""


def write_page(results: Mapping[str, Any], path: Path) -> Path:
    """Write ``results.json`` as a page that needs nothing else; returns its path."""
    page = template("recbench/report/page.html").render(
        style=style(*STYLES),
        shown=recommendation_view(results),
        results=results,
        finished=date(results["finished"]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
