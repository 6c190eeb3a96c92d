"""The review page in a real browser, by its keys alone: served, and as a file."""

import json
import re
from html import escape
from pathlib import Path
from threading import Thread

import pytest

from grpo_mmpc.completion.apply import apply_decisions
from grpo_mmpc.completion.decisions import DECISIONS_FILE
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.catalogue.review_page import write_review_page
from grpo_mmpc.reports.catalogue.review_server import ReviewServer
from tests.completion.completed import lines_of, write_completed
from tests.reports.browser import dump, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]

STEPS = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const press = async (key, target = document.body) => {
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })); await wait(150); };
const at = () => document.getElementById("id").textContent;
const note = (name) => { document.body.dataset[name] = at() + "|" + document.getElementById("value").textContent
  + "|" + document.getElementById("tally").textContent + "|" + document.getElementById("decided").textContent; };
window.addEventListener("load", async () => { await wait(300); %s; document.body.dataset.done = 1; });
"""
DECIDE = """
note("begin");
await press("a"); note("accepted");
await press("e"); const box = document.getElementById("editor");
document.body.dataset.focus = document.activeElement.id;
box.value = "Grand  Mug, 2 l"; await press("a", box); await press("Enter", box); note("edited");
await press("a"); note("nothing");
await press("ArrowRight"); await press("r"); note("rejected");
await press("u"); note("undone");
await press("k"); note("previous");
"""


@pytest.fixture
def review(tmp_path):
    review = Review(write_completed(tmp_path / "completed"))
    yield review
    review.close()


def with_script(page: str, steps: str) -> str:
    """Run steps in the page, without the policy that forbids other scripts than its own."""
    page, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert count == 1
    return page.replace("</body>", f"<script>{STEPS % steps}</script></body>")


def notes(dom: str) -> dict[str, str]:
    return dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<body[^>]*>", dom)[0]))


def check(said: dict[str, str]) -> None:
    """What each key of ``DECIDE`` leads to."""
    assert said["begin"] == "B2|Acme Kettle, Blue|0 of 4 decided|"
    assert said["accepted"].startswith("B3|Grand Mug|1 of 4 decided")
    assert said["focus"] == "editor"  # a letter typed there decides nothing
    assert said["edited"].startswith("B4|nothing was proposed|2 of 4 decided")
    assert said["nothing"] == said["edited"]  # nothing to accept
    assert said["rejected"].startswith("B4|nothing was proposed|3 of 4 decided")
    assert said["undone"].startswith("B5|Wool Hat|2 of 4 decided")
    assert said["previous"].startswith("B4|")


def test_the_served_page_decides_by_keys_and_goes_on_where_it_was(review, tmp_path, monkeypatch):
    from grpo_mmpc.reports.catalogue import review_server

    plain = review_server.served_page
    monkeypatch.setattr(review_server, "served_page", lambda *a, **k: with_script(plain(*a, **k), steps))
    with ReviewServer(review, by="Ann") as server:
        Thread(target=server.serve_forever, daemon=True).start()
        steps = DECIDE
        check(notes(dump(server.address, tmp_path)))
        steps = 'note("again")'
        again = notes(dump(server.address, tmp_path))["again"]
        server.shutdown()
    lines = [(one["item_id"], one["decision"], one["value"]) for one in lines_of(review.folder / DECISIONS_FILE)]
    assert lines == [
        ("B2", "accept", "Acme Kettle, Blue"),
        ("B3", "edit", "Grand Mug, 2 l"),
        ("B5", "reject", "images/generated/B5.png"),
        ("B5", "undo", None),
    ]
    assert again.startswith("B4|nothing was proposed|2 of 4 decided")


def test_the_page_works_under_its_own_policy(review, tmp_path):
    with ReviewServer(review, by="Ann") as server:
        Thread(target=server.serve_forever, daemon=True).start()
        dom = dump(server.address, tmp_path)
        server.shutdown()
    assert re.search(r'id="value" class="">(<mark>Acme</mark>|Acme) Kettle', dom)
    assert 'src="data:image/' in dom


def test_a_mailed_page_gives_back_decisions_that_apply_takes(review, tmp_path):
    write_review_page(tmp_path / "page.html", review)
    keep = 'document.getElementById("by").value = "Bo"; ' + DECIDE + "document.body.dataset.log = JSON.stringify(log);"
    page = with_script((tmp_path / "page.html").read_text("utf-8"), keep)
    (tmp_path / "page.html").write_text(page, "utf-8")
    said = notes(dump((tmp_path / "page.html").as_uri(), tmp_path))
    check(said)
    lines = json.loads(said["log"].replace("&quot;", '"'))
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = apply_decisions(review.folder, tmp_path / "out", files=[theirs])
    assert done.counts == {"accepted by a reviewer": 1, "edited": 1, "failed": 1, "waiting for review, left missing": 1}
    assert not done.left_out and lines[0]["by"] == "Bo"
    assert [row["title"] for row in lines_of(tmp_path / "out/items.jsonl")][1:3] == [
        "Acme Kettle, Blue",
        "Grand Mug, 2 l",
    ]


def test_filters_show_what_they_say(review, tmp_path):
    write_review_page(tmp_path / "page.html", review)
    steps = """
    const set = async (id, value) => { const one = document.getElementById(id); one.value = value;
      one.dispatchEvent(new Event("change")); await wait(100); };
    const ids = () => shown.map((n) => entries[n].item_id).join(" ");
    await set("by-status", "review"); document.body.dataset.status = ids();
    await set("by-field", "image"); document.body.dataset.field = ids();
    await set("by-field", ""); await set("by-status", ""); await set("from", "0.5"); document.body.dataset.sure = ids();
    await set("from", ""); await set("to", "0.4"); document.body.dataset.unsure = ids();
    await set("by-category", "Kitchen");
    document.body.dataset.none = ids() + document.getElementById("said").textContent;
    """
    page = with_script((tmp_path / "page.html").read_text("utf-8"), steps)
    (tmp_path / "page.html").write_text(page, "utf-8")
    said = notes(dump((tmp_path / "page.html").as_uri(), tmp_path))
    assert (said["status"], said["field"], said["sure"], said["unsure"]) == ("B3 B5", "B5", "B2", "B3")
    assert said["none"] == "Nothing matches these filters."


def test_a_title_of_markup_is_text(review, tmp_path):
    rows = (review.folder / "proposals.jsonl").read_text()
    evil = json.dumps("</script><img src=x onerror=\"document.body.dataset.owned='1'\">")
    (review.folder / "proposals.jsonl").write_text(rows.replace('"Acme Kettle, Blue"', evil))
    other = Review(review.folder)
    write_review_page(tmp_path / "page.html", other)
    other.close()
    page = with_script((tmp_path / "page.html").read_text("utf-8"), 'note("title"); await press("e")')
    (tmp_path / "page.html").write_text(page, "utf-8")
    said = notes(dump((tmp_path / "page.html").as_uri(), tmp_path))
    assert "onerror" in said["title"] and "owned" not in said and said["done"] == "1"


def test_nothing_is_wider_than_a_phone(review, tmp_path):
    write_review_page(tmp_path / "page.html", review)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", (tmp_path / "page.html").read_text("utf-8"))
    for width in (390, 1280):
        measure = "document.body.dataset.width = this.contentDocument.documentElement.scrollWidth"
        frame = f'<iframe width="{width}" height="900" style="border:0" onload="{measure}" srcdoc="{escape(page)}">'
        path = Path(tmp_path / "frame.html")
        path.write_text(f"<!doctype html><body>{frame}</iframe></body>", "utf-8")
        assert notes(dump(path.as_uri(), tmp_path))["width"] == str(width)
