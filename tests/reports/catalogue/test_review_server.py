"""The server of a review: what its page may do, and that nobody else may do anything."""

import http.client
import json
from contextlib import closing
from threading import Thread

import pytest

from grpo_mmpc.completion.decisions import DECISIONS_FILE
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.pipelines.review import LOCK, serve_review
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.catalogue.review_page import served_page
from grpo_mmpc.reports.catalogue.review_server import ReviewServer
from grpo_mmpc.utils.locks import hold
from grpo_mmpc.utils.page_server import MAX_BODY_BYTES
from tests.completion.completed import lines_of, write_completed, write_lines


@pytest.fixture
def completed(tmp_path):
    return write_completed(tmp_path / "completed")


@pytest.fixture
def server(completed):
    review = Review(completed)
    with ReviewServer(review, by="Ann") as running:
        Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()
    review.close()


def ask(server, route="", *, method="GET", body=None, key=None, **headers):
    """Send what the page sends; return status, headers, body. None leaves a header out."""
    at = f"127.0.0.1:{server.server_port}"
    sent = {"Host": at}
    if method == "POST":
        sent |= {"Origin": f"http://{at}", "Content-Type": "application/json"}
    sent = {name: value for name, value in (sent | headers).items() if value is not None}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, f"/{server.token if key is None else key}/{route}", skip_host=True)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if content is not None and "Content-Length" not in headers:
            sent["Content-Length"] = str(len(content))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def decide(server, item_id, decision, title=None, *, field="title"):
    body = {"item_id": item_id, "field": field, "decision": decision, "title": title}
    status, _, content = ask(server, "decisions", method="POST", body=body)
    return status, json.loads(content)


def test_the_page_holds_what_can_be_filtered_by_and_sends_nothing_elsewhere(server):
    status, headers, page = ask(server)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert [(one["item_id"], one["field"], one["status"], one["confidence"]) for one in data["entries"]] == [
        ("B2", "title", "accepted", 0.9),
        ("B3", "title", "review", 0.4),
        ("B4", "title", "failed", None),
        ("B5", "image", "review", None),
    ]
    assert "default-src 'none'" in page and "connect-src 'self'" in page.replace("&#39;", "'")
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_an_item_comes_with_image_facts_reasons_and_the_nearest_title_of_another_item(server):
    status, _, content = ask(server, "entry/0")
    entry = json.loads(content)
    assert status == 200 and entry["image"].startswith("data:image/")
    assert entry["facts"] == [["brand", "Acme"], ["color", "blue"]]
    assert entry["pieces"] == [["Acme", True], [" Kettle, ", False], ["Blue", True]]  # confirmed by the facts
    # acme, kettle are shared; blue, red, 1, 7, l are not.
    assert entry["nearest"] == {"item_id": "B1", "title": "Acme Kettle, Red, 1.7 l", "share": pytest.approx(2 / 7)}
    assert json.loads(ask(server, "entry/1")[2])["reasons"] == ["color: too few samples agree"]
    image = json.loads(ask(server, "entry/3")[2])
    assert (image["title"], image["value"]) == ("Wool Hat", "images/generated/B5.png")
    assert image["pieces"] == [["Wool Hat", False]]


def test_the_page_says_first_that_a_nano_model_does_not_know_these_products(server, completed):
    assert "nano:gemma3 knows only the products of the nano catalogue" in ask(server)[2]
    lines = (completed / "proposals.jsonl").read_text().replace("nano:gemma3", "org/real-model")
    (completed / "proposals.jsonl").write_text(lines)
    with closing(Review(completed)) as review:
        assert "Read this first" not in served_page(review, by="Ann")


def test_decisions_are_on_the_disk_with_name_and_time_when_they_are_answered(server, completed):
    assert decide(server, "B3", "accept") == (
        200,
        {"decided": {"decision": "accept", "value": "Grand Mug", "by": "Ann"}},
    )
    assert decide(server, "B4", "edit", "  Tin   Pot ")[1]["decided"]["value"] == "Tin Pot"
    assert decide(server, "B5", "reject", field="image")[0] == 200
    assert decide(server, "B5", "undo", field="image") == (200, {"decided": None})
    lines = lines_of(completed / DECISIONS_FILE)
    assert [(one["item_id"], one["decision"], one["value"], one["by"]) for one in lines] == [
        ("B3", "accept", "Grand Mug", "Ann"),
        ("B4", "edit", "Tin Pot", "Ann"),
        ("B5", "reject", "images/generated/B5.png", "Ann"),
        ("B5", "undo", None, "Ann"),
    ]
    again = Review(completed)
    assert again.history() == [1, 2] and again.overview()[1]["decided"]["decision"] == "accept"
    again.close()


@pytest.mark.parametrize(
    ("item", "decision", "title", "field", "status"),
    [
        ("B9", "accept", None, "title", 404),
        ("B3", "accept", None, "image", 404),
        ("B4", "accept", None, "title", 422),
        ("B4", "reject", None, "title", 422),
        ("B3", "edit", " \u200b", "title", 422),
        ("B3", "edit", "x" * 3_000, "title", 422),
        ("B3", "edit", ["x"], "title", 422),
        ("B5", "edit", "images/B1.png", "image", 422),
        ("B3", "delete", None, "title", 422),
        (None, None, None, None, 404),
    ],
)
def test_what_cannot_be_decided_is_refused_and_not_written(server, completed, item, decision, title, field, status):
    answered, content = decide(server, item, decision, title, field=field)
    assert answered == status and content["error"]
    assert not (completed / DECISIONS_FILE).exists()


BODY = {"item_id": "B3", "field": "title", "decision": "accept"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Host": None}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"key": ""}, 403),
        ({"key": "wrong"}, 403),
        ({"key": "%00"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"body": None}, 411),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content-Length": "9" * 5_000}, 413),
        ({"body": b"{"}, 400),
        ({"body": b"[1]"}, 400),
        ({"body": b"[" * 60_000}, 400),
        ({"route": "decisions/"}, 404),
        ({"route": "entry/0"}, 404),
        ({"method": "PUT"}, 501),
        ({"method": "OPTIONS"}, 501),
    ],
)
def test_requests_of_others_and_broken_ones_are_refused_and_change_nothing(server, completed, request_, status):
    options = {"route": "decisions", "method": "POST", "body": BODY} | request_
    route = options.pop("route")
    answered, headers, _ = ask(server, route, **{name.replace("_", "-"): value for name, value in options.items()})
    assert answered == status
    assert "Access-Control-Allow-Origin" not in headers
    assert not (completed / DECISIONS_FILE).exists()


@pytest.mark.parametrize(
    "route",
    [
        *("items.jsonl", "../items.jsonl", "..%2f..%2fetc/passwd", "images/B1.png", "entry/../../items.jsonl"),
        *("entry/", "entry/-1", "entry/4", "entry/1e0", "entry/%D9%A3", "entry/99999999999999999999", "entry/0/"),
    ],
)
def test_no_path_leads_to_a_file(server, route):
    assert ask(server, route)[0] == 404


def test_an_image_outside_the_folder_is_none(completed, tmp_path):
    (tmp_path / "secret.png").write_bytes((completed / "images/B1.png").read_bytes())
    (completed / "images/B3.png").unlink()
    (completed / "images/B3.png").symlink_to(tmp_path / "secret.png")
    rows = lines_of(completed / "items.jsonl")
    rows[1]["image"] = "../secret.png"
    write_lines(completed / "items.jsonl", rows)
    review = Review(completed)
    with ReviewServer(review, by="Ann") as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert [json.loads(ask(server, f"entry/{n}")[2])["image"] for n in (0, 1)] == [None, None]
        server.shutdown()
    review.close()


def test_a_full_disk_is_no_decision(server, completed, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(completed / DECISIONS_FILE))

    monkeypatch.setattr("grpo_mmpc.reports.catalogue.review_entries.append_json_lines", full)
    status, content = decide(server, "B3", "accept")
    assert status == 507 and "full" in content["error"]
    assert server.review.decided(server.review.proposals[1]) is None


def test_a_second_reviewer_is_told_who_holds_the_folder(completed):
    is_refused = pytest.raises(CatalogueError, match=r"is being reviewed \(process \d+ on .*--html FILE")
    with hold(completed / LOCK, refuse=None), is_refused:
        serve_review(completed, by="Bo")


def test_a_folder_without_completion_is_refused_in_words(tmp_path):
    with pytest.raises(CatalogueError, match="give a folder that grpo-mmpc complete has written"):
        serve_review(tmp_path, by="Bo")
    with pytest.raises(CatalogueError, match="is no folder"):
        serve_review(tmp_path / "nowhere", by="Bo")
    assert not (tmp_path / "nowhere").exists()
