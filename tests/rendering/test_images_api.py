"""The renderer ``images_api`` against a local server at the network's edge."""

import time

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rendering import images_api
from grpo_mmpc.rendering.images_api import ImagesApiRenderer
from grpo_mmpc.rendering.registry import check_renderer, load_renderer, renderer_identity
from grpo_mmpc.rendering.renderer import render
from grpo_mmpc.utils.single_out import Failure
from tests.rendering.fake_images_server import FakeImages, answer, png


@pytest.fixture
def server():
    fake = FakeImages()
    yield fake
    fake.stop()


@pytest.fixture
def second():
    fake = FakeImages()
    yield fake
    fake.stop()


def reds(images):
    return [image if isinstance(image, Failure) else image.getpixel((0, 0))[0] for image in images]


def test_every_prompt_is_one_request_with_its_seed_and_the_images_come_in_order(server):
    renderer = load_renderer("images_api", urls=server.url, model="sd", size="8x8", options={"guidance_scale": 0.0})
    assert reds(render(renderer, ["a mug", "a sock", "a mug"], seeds=[7, 3, 9])) == [7, 3, 9]
    assert {"model", "prompt", "seed", "n", "size", "response_format", "guidance_scale"} == set(server.bodies[0])
    assert {(body["prompt"], body["seed"]) for body in server.bodies} == {("a mug", 7), ("a sock", 3), ("a mug", 9)}
    assert {(body["n"], body["size"], body["response_format"]) for body in server.bodies} == {(1, "8x8", "b64_json")}


def test_as_many_requests_are_in_flight_as_the_batch_is_large(server):
    server.delay_s = 0.2
    render(ImagesApiRenderer(urls=server.url, model="sd", batch_size=3), ["a"] * 6, seeds=list(range(6)))
    assert server.most_in_flight == 3


def test_servers_get_prompts_in_turn_and_stand_in_for_each_other(server, second):
    renderer = ImagesApiRenderer(urls=[server.url, second.url + "/"], model="sd")
    assert reds(renderer.render(["a"] * 4, seeds=[1, 2, 3, 4])) == [1, 2, 3, 4]
    assert (len(server.bodies), len(second.bodies)) == (2, 2)
    server.fault = lambda body, number: (503, {"error": {"message": "loading"}})
    assert reds(renderer.render(["a"] * 4, seeds=[1, 2, 3, 4])) == [1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["reset", (500, b"oops"), (429, b"slow down")])
def test_what_may_pass_is_asked_again(server, fault):
    server.fault = lambda body, number: fault if number == 0 else None
    assert reds(ImagesApiRenderer(urls=server.url, model="sd").render(["a"], seeds=[5])) == [5]
    assert len(server.bodies) == 2


def test_a_refused_prompt_is_a_failed_render_and_costs_the_others_nothing(server):
    server.fault = lambda body, number: (
        (400, {"error": {"message": "content policy"}}) if body["prompt"] == "bad" else None
    )
    bad, good = render(ImagesApiRenderer(urls=server.url, model="sd"), ["bad", "good"], seeds=[1, 2])
    assert isinstance(bad, Failure) and bad.reason.endswith("refuses it (400): content policy")
    assert good.getpixel((0, 0)) == (2, 0, 0)


def test_bytes_that_are_no_usable_image_are_a_failed_render(server):
    server.fault = lambda body, number: (200, answer([b"<svg/>", png(0, size=(400, 2))][body["seed"]]))
    svg, thin = ImagesApiRenderer(urls=server.url, model="sd").render(["a", "b"], seeds=[0, 1])
    assert "a drawing in SVG" in svg.reason and "400 x 2 pixels" in thin.reason


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((401, b"who?"), "wants another key: set IMAGES_API_KEY"),
        ((404, b""), r"is no server of images, or of another model \(404\): no reason given"),
        ((302, b""), r"redirects: give the address itself \(302\)"),
        ((200, {"data": [{"url": "http://127.0.0.1/x.png"}]}), "addresses of images are not followed"),
        ((200, {"data": []}), "without one image as b64_json"),
        ((200, b"[" * 100_000), "without one image as b64_json"),
        ((200, {"data": [{"b64_json": "no base64!"}]}), "without one image as b64_json"),
    ],
)
def test_a_server_that_is_none_of_images_ends_the_run_with_the_reason(server, fault, message):
    server.fault = lambda body, number: fault
    with pytest.raises(EvaluationError, match=message):
        render(ImagesApiRenderer(urls=server.url, model="sd"), ["a", "b"], seeds=[1, 2])


@pytest.mark.parametrize("fault", ["hang", "drip", (503, b"loading"), (429, b"later")])
def test_one_image_takes_no_longer_than_its_limit(server, fault):
    server.fault = lambda body, number: fault
    start = time.monotonic()
    with pytest.raises(EvaluationError, match=r"no answer from http://127.*within 1 s .*; start the server, or raise"):
        ImagesApiRenderer(urls=server.url, model="sd", timeout_s=1.0).render(["a"], seeds=[1])
    assert time.monotonic() - start < 3


def test_an_answer_above_the_limit_is_not_read_to_its_end(server, monkeypatch):
    monkeypatch.setattr(images_api, "_MAX_BYTES", 1000)
    server.fault = lambda body, number: (200, b" " * 100_000)
    with pytest.raises(EvaluationError, match="more than 1,000 bytes; ask for less"):
        ImagesApiRenderer(urls=server.url, model="sd").render(["a"], seeds=[1])


def test_the_key_of_the_environment_goes_to_the_server_and_proxies_do_not_count(server, monkeypatch):
    monkeypatch.setenv("IMAGES_API_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    ImagesApiRenderer(urls=server.url, model="sd").render(["a"], seeds=[1])
    assert server.keys == {"Bearer secret"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"urls": "gpu07:9000", "model": "sd"}, "'gpu07:9000' is not a URL; write http://host:9000"),
        ({"urls": [], "model": "sd"}, "urls is empty"),
        ({"urls": "http://me:secret@a", "model": "sd"}, "must hold no user, password or key; set IMAGES_API_KEY"),
        ({"urls": "http://a/?key=secret", "model": "sd"}, "must hold no user, password or key"),
        ({"urls": "http://a"}, "needs the argument model"),
        ({"urls": "http://a", "model": "sd", "size": "large"}, "size must be WIDTHxHEIGHT"),
        ({"urls": "http://a", "model": "sd", "options": {"seed": 3}}, "options must not set seed"),
        ({"urls": "http://a", "model": "sd", "batch_size": 0}, "found 0 and 300"),
    ],
)
def test_a_recipe_is_checked_before_anything_is_asked(kwargs, message):
    with pytest.raises(EvaluationError, match=message):
        check_renderer("images_api", kwargs)


def test_images_are_known_by_model_and_options_and_not_by_the_address():
    here = renderer_identity("images_api", {"urls": "http://a", "model": "sd", "batch_size": 2, "timeout_s": 1})
    assert here == renderer_identity("images_api", {"urls": ["http://b", "http://c"], "model": "sd"})
    assert here != renderer_identity("images_api", {"urls": "http://a", "model": "other"})
