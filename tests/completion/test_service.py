"""Completion over HTTP: photographs and incomplete items in, judged proposals out."""

import base64
import io
import signal
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.completion.judging import Gate
from grpo_mmpc.completion.plan import completing_tasks, provenance_of
from grpo_mmpc.completion.service import CompletionService
from grpo_mmpc.completion.web import MOST_ITEMS, application
from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.guard import KEY_VARIABLE
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.batch_queue import MOST_WAITING
from grpo_mmpc.utils.single_out import Failure

KNOWN = [
    ProductRecord(
        item_id=color, category="Mugs", title=f"{color} mug", description=None, image=None, attributes={"color": color}
    )
    for color in ("red", "blue")
]


def photo(color: str, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(content, kind)
    return content.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Painter:
    """Stands for a policy that sees one colour, and is unsure of it when it samples."""

    rows_at_once = 4

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.has_begun, self.before = threading.Event(), threading.Event()
        self.before.set()
        self.fails = False

    def generate(self, rows, sampling):
        self.has_begun.set()
        self.before.wait(30)
        if self.fails:
            raise RolloutError("no engine answers")
        self.batches.append(len(rows))
        return [self._answer(row, sampling) for row in rows]

    def _answer(self, row, sampling):
        if row.task == "text_to_image":
            return TASKS[row.task].answer(row.title)
        red, green, blue = np.asarray(Image.open(row.prompt_image_path).convert("RGB"))[0, 0]
        if green > 200:
            return Failure(reason="too green")
        color = "red" if red > blue else "blue"
        return TASKS[row.task].answer(
            "green mug" if sampling.temperature and sampling.seed % 4 == 0 else f"{color} mug"
        )


class Drawer:
    """Stands for a renderer: fills the image with the prompt's first word."""

    def render(self, prompts, *, seeds):
        return [Image.new("RGB", (8, 8), prompt.split()[0]) for prompt in prompts]


def service_of(config, engine, *, samples=0, renderer=None, known=(), gate=None):
    provenance = provenance_of(config, checkpoint=None, samples=samples)
    judged = Gate(gate or GateSection(), known, None)
    return CompletionService(provenance, engine=engine, renderer=renderer, gate=judged, tasks=completing_tasks(config))


@contextmanager
def serving(config, *, engine=None, **options):
    service = service_of(config, engine or Painter(), **options)
    threading.Thread(target=service.run, daemon=True).start()
    with TestClient(application(service)) as client:
        yield client


@pytest.fixture
def config(make_config):
    return make_config()


def test_a_photograph_comes_back_as_a_title_with_all_that_it_depends_on(config):
    with serving(config) as client:
        response = client.post("/photo", params={"item_id": "7"}, content=photo("red", "JPEG"))
    assert response.status_code == 200, response.text
    proposal = response.json()
    assert (proposal["item_id"], proposal["field"], proposal["value"]) == ("7", "title", "red mug")
    assert (proposal["status"], proposal["source"], proposal["confidence"]) == ("accepted", "model", None)
    assert proposal["prompt"] == TASKS["image_to_text"].version
    assert proposal["model"] == config.model.name_or_path and proposal["sampling"]["temperature"] == 0


def test_a_batch_is_answered_item_by_item_whatever_is_wrong_with_one_of_them(config):
    items = [
        {"image": encoded(photo("blue")), "item_id": "a"},
        {"image": "?"},
        {"image": encoded(b"%PDF-1.7 and so on"), "item_id": "c"},
        {"item_id": "d"},
        {"image": encoded(photo("red")), "title": "Red Mug"},
        {"image": encoded(photo("lime"))},
        {"image": f"data:image/png;base64,{encoded(photo('red'))}"},
        {"image": encoded(photo("red")), "attributes": {"color": {"a": 1}}},
        {"title": "x" * 5001},
        {"title": "Red Mug"},
    ]
    with serving(config) as client:
        proposals = client.post("/complete", json={"items": items}).json()["proposals"]
    assert [one["item_id"] for one in proposals] == ["a", "2", "c", "d", "5", "6", "7", "8", "9", "10"]
    assert [one["value"] for one in proposals] == ["blue mug", *[None] * 5, "red mug", *[None] * 3]
    assert [one["reasons"][0] for one in proposals if one["value"] is None] == [
        *["not an item"] * 4,
        "not completed",
        *["not an item"] * 2,
        "no renderer",
    ]
    assert [one["reasons"][1].split(";")[0].split(" (")[0] for one in proposals if one["value"] is None] == [
        "image is not base64",
        "image c is a PDF document, which is not read",
        "neither title nor image",
        "nothing is missing: title and image",
        "too green",
        "attributes color dropped: expected text or a number",
        "title has 5,001 characters, the limit is 5,000",
        "start the server with evaluation.renderer=...",
    ]


def test_the_gate_judges_a_title_by_samples_facts_constraints_and_titles_that_are_taken(config):
    gate = GateSection(confidence=0.8, constraints={"banned": ["mug"]})
    items = [{"image": encoded(photo("red")), "attributes": {"color": "blue"}}]
    with serving(config, samples=4, known=KNOWN, gate=gate) as client:
        [first] = client.post("/complete", json={"items": items}).json()["proposals"]
        [again] = client.post("/complete", json={"items": items}).json()["proposals"]
    assert first["confidence"] == 0.75 and first["signals"]["agreement.color"] == 0.75  # 3 of 4 say red
    assert first["status"] == "review"
    assert first["reasons"][:3] == [
        "low confidence in color: 0.75, below 0.80",
        "color is not what the item's attributes say",
        "another item has this title",
    ]
    assert len(first["reasons"]) == 4 and again == first


def test_a_servers_own_tasks_fill_what_they_ask_for_and_say_what_they_cannot(make_config):
    words = {"source": ["images", "category"], "target": "description", "instruction": "Describe it."}
    facts = {"source": ["description"], "target": "attributes", "instruction": "{keys}?", "properties": {"color": {}}}
    config = make_config(tasks=["words", "facts"], own_tasks={"words": words, "facts": facts})

    class Writer:
        rows_at_once = 4

        def generate(self, rows, sampling):
            answers = {"words": '{"description": "A red mug."}', "facts": '{"color": "red"}'}
            return [answers[row.task] for row in rows]

    mug = {"title": "Mug", "category": "Mugs", "image": encoded(photo("red"))}
    items = [
        mug,
        {"title": "Mug", "description": "Red."},
        mug | {"description": "Red.", "attributes": {"Color": "red"}},
    ]
    with serving(config, engine=Writer(), samples=2) as client:
        first, second, third = client.post("/complete", json={"items": items}).json()["proposals"]
        shot = client.post("/photo", params={"category": "Mugs"}, content=photo("red")).json()
    assert (first["field"], first["value"], first["status"]) == ("description", "A red mug.", "accepted")
    assert (second["field"], second["value"], second["confidence"]) == ("attributes", '{"color": "red"}', 1.0)
    assert (third["value"], third["status"]) == (None, "failed")
    assert third["reasons"][1] == (
        "nothing is missing that can be filled from the rest: words makes description of images, category; facts makes "
        "attributes of description"
    )
    assert (shot["field"], shot["value"]) == ("description", "A red mug.")


def test_a_title_comes_back_as_an_image(config):
    with serving(config, renderer=Drawer()) as client:
        [proposal] = client.post("/complete", json={"items": [{"title": "red mug"}]}).json()["proposals"]
    assert (proposal["field"], proposal["status"]) == ("image", "accepted")
    image = Image.open(io.BytesIO(base64.b64decode(proposal["value"])))
    assert image.format == "PNG" and image.getpixel((0, 0)) == (255, 0, 0)


def test_requests_that_wait_are_asked_together_and_each_gets_its_own_answer(config, tmp_path):
    engine = Painter()
    engine.before.clear()
    service = service_of(config, engine)
    threading.Thread(target=service.run, daemon=True).start()
    requests = []
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1").write_bytes(photo("red" if number % 2 else "blue"))
        record = ProductRecord(item_id="same", category="", title=None, description=None, image="1")
        requests.append(service.submit([(tmp_path / str(number), record)]))
        assert engine.has_begun.wait(30)  # the first is with the engine, and the others wait
    engine.before.set()
    titles = [[one.value for one in request.result(30)] for request in requests]
    assert titles == [["red mug" if number % 2 else "blue mug"] for number in range(9)]
    assert engine.batches == [1, 4, 4]


def test_an_engine_that_fails_costs_its_requests_and_not_the_server(config):
    engine = Painter()
    engine.fails = True
    with serving(config, engine=engine) as client:
        response = client.post("/photo", content=photo("red"))
        assert (response.status_code, response.json()) == (500, {"detail": "no engine answers"})
        engine.fails = False
        assert client.post("/photo", content=photo("red")).json()["value"] == "red mug"


def test_who_comes_when_too_many_wait_is_sent_away_for_a_moment(config):
    engine = Painter()
    service = service_of(config, engine)
    for _ in range(MOST_WAITING):
        service.submit([])
    with TestClient(application(service)) as client:
        response = client.post("/photo", content=photo("red"))
    assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"items": []}, ["body", "items"]),
        ({"items": [{}] * (MOST_ITEMS + 1)}, ["body", "items"]),
        ({"items": [{"titel": "Mug"}]}, ["body", "items", 0, "titel"]),
        ({}, ["body", "items"]),
        ([], ["body"]),
    ],
)
def test_a_body_of_another_shape_is_refused_with_the_place(config, body, place):
    with serving(config) as client:
        response = client.post("/complete", json=body)
    assert response.status_code == 422 and [one["loc"] for one in response.json()["detail"]] == [place]


def test_openapi_describes_every_route_with_its_answer(config):
    with serving(config) as client:
        described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/health", "/complete", "/photo"}
    assert set(described["components"]["schemas"]["Proposal"]["properties"]) >= {"value", "confidence", "status"}
    assert "image/*" in described["paths"]["/photo"]["post"]["requestBody"]["content"]


def test_the_command_answers_with_the_embedded_policy_and_asks_for_its_key(small_catalogue, monkeypatch):
    """The command itself, in this process; once it says where, a thread asks and interrupts it."""
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    item = next(load_catalogue(small_catalogue).records())
    content = (small_catalogue / item.image).read_bytes()
    seen: dict[str, httpx.Response] = {}

    def ask(url: str) -> None:
        try:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                seen["health"] = client.get("/health")
                seen["without key"] = client.post("/photo", content=content)
                client.headers["Authorization"] = "Bearer secret"
                seen["with key"] = client.post("/photo", content=content)
        finally:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def say_where(host: str, port: int, key: str) -> None:
        threading.Thread(target=ask, args=[f"http://{host}:{port}"], daemon=True).start()

    monkeypatch.setattr("grpo_mmpc.pipelines.serve_completion._say_where", say_where)
    command = ["serve", "recipes/nano.yaml", "--complete", "--port", "0", "--catalogue", str(small_catalogue)]
    assert main(command) == 130
    assert seen["health"].json() == {"status": "ok"}
    assert seen["without key"].status_code == 401 and KEY_VARIABLE in seen["without key"].text
    proposal = seen["with key"].json()
    assert proposal["field"] == "title" and proposal["status"] in ("accepted", "review", "failed")
    assert proposal["model"] == "nano:qwen2_5_vl"


def test_options_of_completion_need_it(capsys):
    assert main(["serve", "recipes/nano.yaml", "--samples", "2"]) == 2
    assert "--samples needs --complete" in capsys.readouterr().err
    assert main(["serve"]) == 2
    assert "RECIPE is missing" in capsys.readouterr().err
