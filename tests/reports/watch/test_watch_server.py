"""The page of runs: what it shows, that it refreshes itself, and that nothing in it is trusted."""

import re
import urllib.error
import urllib.request
from threading import Thread

import pytest
from PIL import Image

from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.reports.watch.live_run import find_runs
from grpo_mmpc.reports.watch.server import WatchServer
from tests.reports.browser import dump, needs_chromium
from tests.reports.run.fake_run import build_run
from tests.reports.watch.runs import begin, hold, log, record, row

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
def run(tmp_path):
    folder = begin(tmp_path / "run")
    hold(folder)
    log(folder, *map(row, range(1, 5)))
    record(folder, 4)
    return folder


@pytest.fixture
def serve():
    servers = []

    def start(*folders, **where):
        server = WatchServer(find_runs(folders, wait=True), **where)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(server, route="", **headers):
    request = urllib.request.Request(server.address + route, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_shows_progress_rewards_curves_and_the_newest_completions_with_their_image(serve, run):
    status, page = get(serve(run))
    assert status == 200 and "step 4 of 10" in page and "about 18 s left" in page
    assert "Zero-variance groups" in page and "1.8 GiB" in page
    assert "bleu: spread within groups" in page and page.count('<svg class="curve"') >= 2
    assert "a red mug" in page and "malformed:" in page and page.count('src="data:image/') == 1


def test_what_changes_is_asked_for_beside_the_page_and_follows_the_run(serve, run):
    server = serve(run)
    status, part = get(server, "live")
    assert status == 200 and "step 4 of 10" in part and "<html" not in part
    assert part in get(server)[1], "the page holds what it fetches"
    log(run, row(5))
    assert "step 5 of 10" in get(server, "live")[1]


def test_several_runs_are_a_table_with_a_page_of_each(serve, tmp_path, run):
    server = serve(run, begin(tmp_path / "other", finished=True))
    page = get(server)[1]
    assert "2 runs" in page and re.findall(r'href="(run/\d/)"', page) == ["run/0/", "run/1/"]
    assert "a red mug" in get(server, "run/0/")[1]
    assert "finished" in get(server, "run/1/live")[1]
    for route in ("run/2/", "run/-1/", "run/x/", "run/0/other", "../config.yaml", "run/0/live/"):
        assert get(server, route)[0] == 404, route


def test_evaluations_stand_beside_the_base_as_a_table_and_as_curves(serve, tmp_path):
    folder = build_run(
        tmp_path / "run", items_per_category=4, checkpoints=("base", "checkpoint-20"), compare=False, images=False
    )
    page = get(serve(folder))[1]
    assert "Newest evaluation: checkpoint-20" in page and "On held-out items: image to text" in page
    row_of_bleu = re.search(r"<bdi>BLEU</bdi>.*?</tr>", page, re.DOTALL)[0]
    assert re.search(r"\+0\.\d{3} to \+0\.\d{3}", row_of_bleu), "the interval of the change"
    board = get(serve(folder, begin(tmp_path / "other")))[1]
    assert re.search(r"checkpoint-20: bleu 0\.\d{3}, clip_image_image 0\.\d{3}", board)


def test_texts_of_a_run_are_escaped_and_the_page_loads_nothing(serve, tmp_path):
    folder = begin(tmp_path / "<b>run")
    record(folder, 1, texts=(HOSTILE, "{"), category=HOSTILE, prompt=HOSTILE, item_id=HOSTILE, task=HOSTILE)
    log(folder, row(1))
    page = get(serve(folder))[1]
    assert "<script>alert" not in page and "<img src=x" not in page and "<b>run" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_images_come_from_the_run_and_its_catalogue_alone(serve, run, tmp_path):
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "private.png")
    record(run, 5, image_path=str(tmp_path / "private.png"))
    page = get(serve(run))[1]
    assert "data:image/" not in page and "no image" in page


def test_only_who_has_the_address_is_answered(serve, run):
    server = serve(run)
    without_key = server.address.replace(server.token, "x" * len(server.token))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(without_key, timeout=30)
    assert get(server, Host="evil.example")[0] == 421
    assert get(server, "live", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    elsewhere = serve(run, host="0.0.0.0")
    assert get(elsewhere, Host="node7:80")[0] == 200, "asked to listen elsewhere, it has no one name; the key stays"


def test_a_port_that_cannot_be_had_is_named(serve, run):
    taken = serve(run).server_port
    for host, port in (("127.0.0.1", taken), ("127.0.0.1", 70_000), ("192.0.2.1", 0), ("no.such.host.invalid", 0)):
        with pytest.raises(GrpoMmpcError, match=rf"cannot listen on {host}:{port}: .+; choose another one"):
            serve(run, host=host, port=port)


@pytest.mark.slow
@needs_chromium
def test_the_page_in_a_browser_takes_up_what_the_run_has_logged_since(serve, run, tmp_path):
    server = serve(run)
    page = get(server)[1]
    assert "step 5 of 10" not in page

    def advance(route, ask=server.get):
        if route == "live":
            log(run, row(5))
        return ask(route)

    server.get = advance
    document = dump(server.address, tmp_path, budget_ms=5_000)
    assert "<b>step 5 of 10</b>" in document and "<title>running, step 5 of 10" in document
