import contextlib
import json
import re
from collections import Counter
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.nano.renderer import NanoRenderer
from grpo_mmpc.rendering import store
from grpo_mmpc.rendering.store import render_into, render_seed
from grpo_mmpc.utils.single_out import Failure
from tests.rendering.own_renderers import PlainRenderer, image_of


class Recording(PlainRenderer):
    """Counts what it rendered; may be interrupted after a number of images."""

    def __init__(self, *, images_before_interrupt=10**9):
        super().__init__()
        self.rendered = Counter()
        self.left = images_before_interrupt

    def render(self, prompts, *, seeds):
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            images += super().render([prompt], seeds=[seed])
            self.rendered[prompt] += 1
        return images


class Counting(PlainRenderer):
    """Counts words and reads four of them."""

    token_limit = 4

    def prompt_tokens(self, prompts):
        return [len(prompt.split()) for prompt in prompts]


def render(folder, prompts, renderer=None, *, identity="mine", **options):
    return render_into(folder, renderer or Recording(), prompts, identity=identity, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / "renders.jsonl").read_text().splitlines() if line]


def check_images(result, prompts):
    """Every job has the image of its own prompt and seed; empty prompts have none."""
    assert list(result.paths) == list(prompts)
    for item_id, prompt in prompts.items():
        path = result.paths[item_id]
        if not prompt.strip():
            assert path is None
            continue
        with Image.open(path) as image:
            assert image.tobytes() == image_of(prompt, render_seed(item_id)).tobytes()


# Seeds and names ----------------------------------------------------------------------------------


def test_the_seed_of_an_item_never_changes():
    # First 4 bytes of blake2b(digest_size=4), big-endian, without the last bit; written down so
    # that images stay comparable.
    assert {i: render_seed(i) for i in ("B000", "é")} == {"B000": 475_928_683, "é": 1_252_172_385}


@settings(deadline=None, max_examples=50)
@given(item_id=st.text(max_size=20))
def test_a_seed_has_31_bits(item_id):
    assert 0 <= render_seed(item_id) < 2**31


def test_seeds_of_a_thousand_items_are_spread():
    seeds = [render_seed(f"B{i:06d}") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert sum(seed >= 2**30 for seed in seeds) in range(430, 571)  # 500 +- 4.5 standard deviations of sqrt(250)


def test_names_of_images_are_safe_and_unique(tmp_path):
    ids = ["a/b", "a_b", "a b", "../../etc/passwd", "é", "x" * 300, "x" * 301, "CON", ".", ""]
    result = render(tmp_path, dict.fromkeys(ids, "a mug"))
    names = [path.name for path in result.paths.values()]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,100}\.png", name) for name in names)
    assert all(path.parent == tmp_path for path in result.paths.values())
    check_images(result, dict.fromkeys(ids, "a mug"))


# What is recorded ---------------------------------------------------------------------------------


def test_every_item_has_a_line_with_what_became_of_it(tmp_path):
    result = render(tmp_path, {"1": "a red mug", "2": "", "3": "one two three four five"}, Counting())
    assert [{k: v for k, v in line.items() if k != "hash"} for line in lines(tmp_path)] == [
        {"item_id": "1", "file": result.paths["1"].name, "reason": None, "prompt_tokens": 3},
        {"item_id": "2", "file": None, "reason": "the renderer gave no image", "prompt_tokens": 0},
        {"item_id": "3", "file": result.paths["3"].name, "reason": None, "prompt_tokens": 5},
    ]
    assert [record.prompt_tokens for record in result.records.values()] == [3, 0, 5]


def test_the_result_counts_failures_and_prompts_over_the_limit(tmp_path):
    prompts = {"1": "a mug", "2": "", "3": "one two three four five", "4": "one two three four"}
    first = render(tmp_path, prompts, Counting())
    assert first.failures == {"the renderer gave no image": 1}
    assert (first.num_over_limit, first.token_limit) == (1, 4)  # four words are read, the fifth is not
    prompts["5"] = "a lamp"
    second = render(tmp_path, prompts, Counting())
    assert second.failures == {"the renderer gave no image": 1}
    assert second.num_over_limit == 1


def test_without_a_count_of_tokens_the_summary_says_so(tmp_path):
    result = render(tmp_path, {"1": "a mug"})
    assert result.records["1"].prompt_tokens is None
    assert (result.num_over_limit, result.token_limit) == (None, None)


def test_a_renderer_without_limit_has_no_prompts_over_it(tmp_path):
    result = render(tmp_path, {"1": "a red mug " * 50}, NanoRenderer())
    assert (result.num_over_limit, result.token_limit) == (0, None)


def test_reasons_are_recorded_where_the_renderer_gives_them(tmp_path):
    class Explaining(PlainRenderer):
        def render(self, prompts, *, seeds):
            return [Failure(reason="unsafe") if p == "b" else image_of(p, 0) for p in prompts]

    result = render(tmp_path, {"1": "a", "2": "b"}, Explaining())
    assert result.failures == {"unsafe": 1}
    assert result.records["2"].reason == "unsafe"


def test_progress_starts_with_what_is_there_and_ends_with_everything(tmp_path):
    prompts = {str(i): f"a mug {i}" for i in range(40)}
    render(tmp_path, dict(list(prompts.items())[:5]))
    seen = []
    render(tmp_path, prompts, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 40), (21, 40), (37, 40), (40, 40)]  # batches of 16


def test_what_is_on_record_is_read_once_however_many_batches_are_rendered(tmp_path, monkeypatch):
    prompts = {str(i): f"a mug {i}" for i in range(40)}
    render(tmp_path, dict(list(prompts.items())[:5]))
    read = Mock(wraps=store.read_json_lines)
    monkeypatch.setattr(store, "read_json_lines", read)
    render(tmp_path, prompts)  # 35 in three batches
    assert [call.args for call in read.call_args_list] == [(tmp_path / "renders.jsonl",)]


def test_a_renderer_with_larger_batches_gets_them_whole(tmp_path):
    renderer, sizes = PlainRenderer(), []
    renderer.batch_size = 30
    draw = renderer.render
    renderer.render = lambda prompts, *, seeds: sizes.append(len(prompts)) or draw(prompts, seeds=seeds)
    render(tmp_path, {str(i): f"a mug {i}" for i in range(40)}, renderer)
    assert sizes == [30, 10]


# Resuming -----------------------------------------------------------------------------------------


def test_after_an_interruption_nothing_is_lost_and_nothing_recorded_is_rendered_twice(tmp_path):
    prompts = {str(i): f"a mug {i}" for i in range(50)}
    interrupted = Recording(images_before_interrupt=40)  # two batches of 16 are written, the third is not
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, prompts, interrupted)
    assert len(lines(tmp_path)) == len(list(tmp_path.glob("*.png"))) == 32
    continued = Recording()
    result = render(tmp_path, prompts, continued)
    assert set(continued.rendered.elements()) == {f"a mug {i}" for i in range(32, 50)}
    assert max(continued.rendered.values()) == 1
    check_images(result, prompts)
    assert len(lines(tmp_path)) == 50


def test_only_what_changed_is_rendered_again(tmp_path):
    before = {"1": "a mug", "2": "a lamp", "3": "a kite"}
    render(tmp_path, before)
    after = {"3": "a kite", "1": "a red mug", "4": "a sock"}
    renderer = Recording()
    result = render(tmp_path, after, renderer)
    assert set(renderer.rendered) == {"a red mug", "a sock"}
    check_images(result, after)
    assert len(list(tmp_path.glob("*.png"))) == 4  # the old image of item 1 is gone, that of item 2 stays
    untouched = Recording()
    check_images(render(tmp_path, {"2": "a lamp"}, untouched), {"2": "a lamp"})
    assert not untouched.rendered


def test_another_renderer_renders_again(tmp_path):
    render(tmp_path, {"1": "a mug"})
    renderer = Recording()
    render(tmp_path, {"1": "a mug"}, renderer, identity="another")
    assert renderer.rendered == {"a mug": 1}


def test_a_image_that_was_deleted_is_rendered_again(tmp_path):
    first = render(tmp_path, {"1": "a mug", "2": "a lamp"})
    first.paths["1"].unlink()
    renderer = Recording()
    result = render(tmp_path, {"1": "a mug", "2": "a lamp"}, renderer)
    assert renderer.rendered == {"a mug": 1}
    check_images(result, {"1": "a mug", "2": "a lamp"})


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[: len(data) // 2]])
def test_an_image_that_is_not_there_to_its_end_is_rendered_again(tmp_path, damage):
    first = render(tmp_path, {"1": "a mug", "2": "a lamp"})
    first.paths["1"].write_bytes(damage(first.paths["1"].read_bytes()))
    renderer = Recording()
    check_images(render(tmp_path, {"1": "a mug", "2": "a lamp"}, renderer), {"1": "a mug", "2": "a lamp"})
    assert renderer.rendered == {"a mug": 1}


@pytest.mark.parametrize("name", ["{outside}", "../thesis.txt", "link.png", ".", "", 7, ["a"]])
def test_a_strangers_record_neither_deletes_nor_names_anything_else(tmp_path, name):
    outside, folder = tmp_path / "thesis.txt", tmp_path / "images"
    outside.write_text("three years of work")
    folder.mkdir()
    (folder / "link.png").symlink_to(outside)
    file = name.format(outside=outside) if isinstance(name, str) else name
    line = {"item_id": "1", "file": file, "reason": None, "prompt_tokens": None, "hash": "0000"}
    (folder / "renders.jsonl").write_text(json.dumps(line) + "\n")
    result = render(folder, {"1": "a mug"})
    check_images(result, {"1": "a mug"})
    assert outside.read_text() == "three years of work" and (folder / "link.png").is_symlink()


def test_recorded_failures_are_not_tried_again(tmp_path):
    class Empty(Recording):
        def render(self, prompts, *, seeds):
            super().render(prompts, seeds=seeds)
            return [None] * len(prompts)

    prompts = {"1": "a mug", "2": "a lamp"}
    failed = render(tmp_path, prompts, Empty())
    assert failed.paths == {"1": None, "2": None}
    renderer = Recording()
    again = render(tmp_path, prompts, renderer)
    assert not renderer.rendered
    assert again.failures == {"the renderer gave no image": 2}


def test_a_line_cut_short_costs_its_own_item_only(tmp_path):
    prompts = {"1": "a mug", "2": "a lamp", "3": "a kite"}
    render(tmp_path, prompts)
    path = tmp_path / "renders.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # killed while writing the last line
    for expected in ({"a kite": 1}, {}):  # rendered again once, and then on record
        renderer = Recording()
        check_images(render(tmp_path, prompts, renderer), prompts)
        assert renderer.rendered == expected


def test_a_image_without_its_line_is_not_taken_for_done(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    render(tmp_path, {"1": "a mug"})
    with monkeypatch.context() as patch:
        patch.setattr(store, "append_json_lines", killed)
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path, {"1": "a red mug"})
    # Back to the old prompt: its own image is still there, and not that of the prompt of the
    # killed run.
    renderer = Recording()
    check_images(render(tmp_path, {"1": "a mug"}, renderer), {"1": "a mug"})
    assert not renderer.rendered
    check_images(render(tmp_path, {"1": "a red mug"}, renderer), {"1": "a red mug"})
    assert renderer.rendered == {"a red mug": 1}


def test_a_image_written_in_part_never_has_its_final_name(tmp_path, monkeypatch):
    def killed_while_saving(self, target, **_):
        target.write_bytes(b"\x89PNG half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", killed_while_saving)
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path, {"1": "a mug"})
    assert not list(tmp_path.glob("*.png"))
    check_images(render(tmp_path, {"1": "a mug"}), {"1": "a mug"})
    assert not list(tmp_path.glob(".*partial"))


@settings(deadline=None, max_examples=30)
@given(
    runs=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["", "a mug", "a lamp", "a kite"])),
            st.integers(0, 10),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_after_any_interrupted_runs_the_last_one_gives_what_a_fresh_one_gives(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("renders")
    for prompts, images in runs:
        with contextlib.suppress(KeyboardInterrupt):
            render(folder, prompts, Recording(images_before_interrupt=images))
    prompts = runs[-1][0]
    check_images(render(folder, prompts), prompts)
    idle = Recording()
    check_images(render(folder, prompts, idle), prompts)
    assert not idle.rendered


# Renderers that misbehave -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2, 4])
def test_the_wrong_number_of_images_ends_the_run_before_anything_is_mixed_up(tmp_path, count):
    class Miscounting:
        def render(self, prompts, *, seeds):
            return [image_of("?", 0)] * count

    with pytest.raises(EvaluationError, match=f"Miscounting gave {count} images for 3 prompts"):
        render(tmp_path, {"1": "a", "2": "b", "3": "c"}, Miscounting())
    assert not list(tmp_path.iterdir())


def test_something_that_is_not_a_image_ends_the_run(tmp_path):
    class Wrong:
        def render(self, prompts, *, seeds):
            return ["a.png"] * len(prompts)

    with pytest.raises(EvaluationError, match="Wrong gave a str; expected a PIL image or None"):
        render(tmp_path, {"1": "a"}, Wrong())


def test_a_prompt_that_raises_costs_its_own_image_only(tmp_path):
    class Raising(PlainRenderer):
        def render(self, prompts, *, seeds):
            if "b" in prompts:
                raise RuntimeError("no b")
            return super().render(prompts, seeds=seeds)

    prompts = {str(i): prompt for i, prompt in enumerate("aabcaaa")}
    result = render(tmp_path, prompts, Raising())
    assert result.failures == {"RuntimeError: no b": 1}
    assert result.paths.pop("2") is None
    check_images(result, {i: prompt for i, prompt in prompts.items() if i != "2"})


def test_a_broken_renderer_ends_the_run_and_leaves_no_failures_on_record(tmp_path):
    class Broken:
        def render(self, prompts, *, seeds):
            raise RuntimeError("no weights")

    prompts = {str(i): f"a mug {i}" for i in range(3)}
    with pytest.raises(EvaluationError, match=r"failed in the same way on all of 3 items.*no weights"):
        render(tmp_path, prompts, Broken())
    check_images(render(tmp_path, prompts), prompts)


def test_nothing_to_render_is_fine(tmp_path):
    result = render(tmp_path / "new" / "images", {})
    assert (result.paths, result.failures) == ({}, {})


def test_images_and_failures_of_an_earlier_folder_are_taken_from_there_unless_the_prompt_is_another(tmp_path):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    first = render(earlier, {"a": "a red mug", "b": "a blue mug", "empty": " "})
    again = Recording()
    prompts = {"a": "a red mug", "b": "a green mug", "empty": " ", "c": "a pan"}
    result = render(later, prompts, again, earlier=[earlier, tmp_path / "never"])
    check_images(result, prompts)
    assert set(again.rendered) == {"a green mug", "a pan"}
    assert result.records["empty"] == first.records["empty"]
    assert (later / first.paths["a"].name).samefile(first.paths["a"])
