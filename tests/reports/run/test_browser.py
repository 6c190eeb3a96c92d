"""The page in a real browser: no sideways scrolling on a phone, nothing injected runs. Skipped
without Chromium."""

import re
from html import escape
from pathlib import Path

import pytest

from grpo_mmpc.reports.run.page import build_report
from tests.reports import browser
from tests.reports.browser import needs_chromium
from tests.reports.run.fake_run import VARIANTS, build_run

pytestmark = [pytest.mark.slow, needs_chromium]


def dump(html: str, folder: Path) -> str:
    """The document after loading, as the browser holds it."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return browser.dump(path.as_uri(), folder)


def scroll_width(page: str, folder: Path, *, width: int) -> int:
    """How wide the page's content is in a viewport of this width. A frame, because windows cannot
    be that narrow."""
    measure = "document.body.dataset.width = this.contentDocument.documentElement.scrollWidth"
    frame = (
        f'<iframe width="{width}" height="2000" style="border:0" onload="{measure}" srcdoc="{escape(page)}"></iframe>'
    )
    found = re.search(r'data-width="(\d+)"', dump(f"<!doctype html><body>{frame}</body>", folder))
    assert found is not None
    return int(found[1])


def with_script(html: str, script: str) -> str:
    """Without the policy that forbids scripts: what is tested is that nothing else is needed to
    keep the page safe."""
    html, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert count == 1
    return html.replace("</body>", f"<script>{script}</script></body>")


@pytest.mark.parametrize("variant", ["plain", "odd", "wide", "empty"])
def test_nothing_is_wider_than_a_phone(tmp_path: Path, variant: str) -> None:
    page = build_report(VARIANTS[variant](tmp_path / "run")).read_text("utf-8").replace("<details>", "<details open>")
    for width in (390, 1280):
        assert scroll_width(page, tmp_path, width=width) == width


def test_injected_markup_does_not_run(tmp_path: Path) -> None:
    payloads = (
        "<script>document.body.dataset.owned=1</script>",
        '"><img src=x onerror="document.body.dataset.owned=1">',
    )

    def edit(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        for number, row in enumerate(rows):
            row["reference"] = row["prediction"] = row["completion"] = payloads[number % 2]
        return rows

    run = build_run(
        tmp_path / "run", categories=list(payloads), items_per_category=12, edit=edit, images=False, resamples=100
    )
    dom = dump(with_script(build_report(run).read_text("utf-8"), "document.body.dataset.ran=1"), tmp_path)
    assert "data-ran" in dom
    assert "data-owned" not in dom
