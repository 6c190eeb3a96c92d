"""The benchmark's own page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.files import write_whole
from grpo_mmpc.report.labels import date
from grpo_mmpc.report.recommendation.views import recommendation_view
from grpo_mmpc.report.templates import style, template

STYLES = ("report/style.css", "report/recommendation/recommendation.css")
"""Of every page that shows the benchmark."""


def write_page(results: Mapping[str, Any], path: Path) -> Path:
    """Write ``results.json`` as a page that needs nothing else; returns its path."""
    page = template("report", "recommendation/page.html").render(
        style=style(*STYLES),
        shown=recommendation_view(results),
        results=results,
        finished=date(results["finished"]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path
