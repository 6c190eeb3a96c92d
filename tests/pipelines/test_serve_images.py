"""A renderer over HTTP, asked as other processes ask it: by the renderer ``images_api``."""

import signal
import threading

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from grpo_mmpc.cli import main
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.pipelines.serve_images import application, rendering_queue
from grpo_mmpc.rendering.images_api import KEY_VARIABLE, ImagesApiRenderer
from grpo_mmpc.rendering.registry import load_renderer
from grpo_mmpc.utils.single_out import Failure

ROUTE = "/v1/images/generations"


class Painter:
    """Paints a prompt's colour; refuses ``nothing`` and breaks on ``broken``."""

    batch_size = 4

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_begin = threading.Event()
        self.may_begin.set()
        self.has_begun = threading.Event()

    def render(self, prompts, *, seeds):
        self.has_begun.set()
        self.may_begin.wait(30)
        self.batches.append(len(prompts))
        if "broken" in prompts:
            raise EvaluationError("the device is lost")
        return [Failure(reason="too dark") if p == "nothing" else Image.new("RGB", (8, 8), p) for p in prompts]


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def client(painter):
    queue = rendering_queue(painter)
    threading.Thread(target=queue.run, daemon=True).start()
    with TestClient(application(queue)) as client:
        yield client


def test_prompts_of_many_clients_that_wait_are_rendered_together(painter):
    queue = rendering_queue(painter)
    threading.Thread(target=queue.run, daemon=True).start()
    painter.may_begin.clear()
    colours = ["red", "blue", "lime"] * 3
    waiting = []
    for seed, colour in enumerate(colours):
        waiting.append(queue.submit([(colour, seed)]))
        assert painter.has_begun.wait(30)  # the first is with the renderer, and the others wait
    painter.may_begin.set()
    images = [future.result(30)[0] for future in waiting]
    assert [image.getpixel((0, 0)) for image in images] == [(255, 0, 0), (0, 0, 255), (0, 255, 0)] * 3
    assert painter.batches == [1, 4, 4]


def test_a_failed_render_is_refused_with_its_reason_and_a_broken_renderer_is_the_servers_fault(client):
    nothing = client.post(ROUTE, json={"prompt": "nothing", "seed": 1})
    assert (nothing.status_code, nothing.json()) == (422, {"detail": "too dark"})
    broken = client.post(ROUTE, json={"prompt": "broken", "seed": 1})
    assert (broken.status_code, broken.json()) == (500, {"detail": "the device is lost"})
    assert client.post(ROUTE, json={"prompt": "red", "seed": 1}).status_code == 200


@pytest.mark.parametrize(
    ("change", "place"), [({"n": 2}, "n"), ({"size": "8x8"}, "size"), ({"seed": -1}, "seed"), ({"seed": None}, "seed")]
)
def test_a_field_that_it_cannot_honour_is_refused_and_named(client, change, place):
    answer = client.post(ROUTE, json={"prompt": "red", "seed": 1, **change})
    assert answer.status_code == 422
    assert [one["loc"] for one in answer.json()["detail"]] == [["body", place]]


def test_the_command_serves_what_images_api_renders_and_asks_for_its_key(monkeypatch):
    """The command in this process; once it says where, a thread asks and interrupts it."""
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    seen = {}

    def ask(url):
        try:
            seen["health"] = httpx.get(f"{url}/health", trust_env=False).json()
            seen["without key"] = httpx.post(url + ROUTE, json={"prompt": "a", "seed": 1}, trust_env=False)
            seen["images"] = ImagesApiRenderer(urls=url, model="nano").render(
                ["a red mug", "a blue sock"], seeds=[1, 2]
            )
        finally:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def say(line):
        if "rendering on http" in line:
            url = line.split()[2].removesuffix(ROUTE + ";")
            threading.Thread(target=ask, args=[url], daemon=True).start()

    monkeypatch.setattr("grpo_mmpc.pipelines.serve_images.say", say)
    assert main(["serve", "--images", "nano", "size=32", "--port", "0"]) == 130
    assert seen["health"] == {"status": "ok"}
    assert seen["without key"].status_code == 401 and KEY_VARIABLE in seen["without key"].text
    here = load_renderer("nano", size=32).render(["a red mug", "a blue sock"], seeds=[1, 2])
    assert [image.tobytes() for image in seen["images"]] == [image.tobytes() for image in here]


def test_a_renderer_that_cannot_be_loaded_is_said_at_once(capsys):
    assert main(["serve", "--images", "--port", "0"]) == 2
    assert "RECIPE is missing: a renderer, such as diffusers" in capsys.readouterr().err
    assert main(["serve", "--images", "nano", "sise=3", "--port", "0"]) == 2
    assert "did you mean 'size'" in capsys.readouterr().err
