"""The page: self-contained, escaped, honest about what is missing, the same for the same run."""

import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.prediction_files import read_references
from grpo_mmpc.reports.run.page import build_report
from tests.reports.golden import check_golden, visible_text
from tests.reports.run.fake_run import CONFIG, VARIANTS, build_run, odd_run

TEMPLATES = [
    resources.files("grpo_mmpc.reports").joinpath(name).read_text("utf-8")
    for name in ("common/base.html", "common/parts.html", "run/page.html")
]
OWN_TAGS = {*re.findall(r"<([a-z][a-z0-9]*)", "".join(TEMPLATES)), "svg", "line", "circle", "polyline", "text"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.html = path.read_text("utf-8")
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("page") / "run", items_per_category=8, resamples=300)


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(build_report(run))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what does not depend on the size of the run."""
    folder = tmp_path_factory.mktemp("small") / "run"
    return build_run(
        folder,
        categories=["Toys", "Office"],
        items_per_category=8,
        tasks=["image_to_text"],
        checkpoints=["base", "final"],
        steps=10,
        images=False,
        resamples=100,
    )


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(build_report(odd_run(tmp_path_factory.mktemp("odd") / "run")))


def copy_without(run: Path, target: Path, *names: str) -> Path:
    shutil.copytree(run, target)
    for name in names:
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


def test_golden_page(small: Path) -> None:
    check_golden("run", visible_text(build_report(small).read_text("utf-8")))


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert sources
    assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for value in sources)
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_no_script_may_run_even_if_something_slipped_through(page: Page) -> None:
    policies = [value for tag, name, value in page.attributes if tag == "meta" and name == "content"]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policies


def test_text_of_models_catalogues_and_config_is_escaped(odd_page: Page) -> None:
    # The run holds <script> in titles and config, "><img onerror> in completions, <b> in a category
    # name.
    assert set(odd_page.tags) <= OWN_TAGS
    assert not [name for _, name, _ in odd_page.attributes if name.startswith("on")]
    for visible in (
        "<script>alert('title')</script>",
        '"><img src=x onerror=alert(',
        '<b>Bold</b> & "quoted" category\'',
        '<script>alert("config")</script>',
    ):
        assert visible in odd_page.text


def test_headline_says_what_happened_to_every_task_in_words(page: Page) -> None:
    number = r"\d\.\d{3}"
    evidence = rf"\(\+{number}, 95% interval \+{number} to \+{number}, corrected p [<\d.]+, 72 items\)\."
    assert re.search(rf"BLEU rose from {number} to {number} {evidence}", page.text)
    sides = rf"{number} before and {number} after"
    assert re.search(rf"CLIP image to image: too few items changed to tell, {sides} {evidence}", page.text)


def test_an_attribute_that_fell_is_warned_about(page: Page) -> None:
    # The fake policy forgets the material.
    assert "Watch out: this got worse" in page.text
    assert re.search(r"Recall of the material got worse: it fell from 0\.\d+ to 0\.\d+", page.text)


def test_every_part_is_there(page: Page) -> None:
    ids = {value for tag, name, value in page.attributes if tag == "section" and name == "id"}
    assert ids == {"plain", "result", "numbers", "attributes", "categories", "gallery", "curves", "run"}
    anchors = {value for tag, name, value in page.attributes if tag == "a" and name == "href"}
    assert anchors == {f"#{name}" for name in ids}
    assert "How to read this page" in page.text
    assert "grpo-mmpc train recipes/nano.yaml recipes/mixes/bleu_bertscore.yaml run_dir=runs/fake" in page.text
    assert "9b2e61f0c7d85a34" in page.text  # data fingerprint
    assert "learning_rate: 0.0015" in page.text  # config.yaml, word for word
    assert "Rows quarantined 3" in page.text
    assert "monitor, not trained on" in page.text  # the reward with weight 0


def test_troubles_of_the_last_steps_and_of_nano_models_come_first_on_the_page(small: Path, tmp_path: Path) -> None:
    run = copy_without(small, tmp_path / "run")
    assert "Read this first" not in Page(build_report(run)).text
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    flat = {"dead_group_share": 1.0, "rewards/bleu/unscored_share": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row | flat) + "\n" for row in rows))
    (run / "config.yaml").write_text(CONFIG.replace("nano:catalogue", "shop"))
    html = build_report(run).read_text("utf-8")
    sentences = (
        "nano:qwen2_5_vl knows only the products of the nano catalogue",
        "The reward bleu is trained on and scored not one completion in steps 6 to 10",
        "No group has variance in steps 6 to 10",
    )
    places = [html.index(text) for text in ("Read this first", *sentences, '<section id="plain"')]
    assert places == sorted(places)


def test_metrics_that_were_trained_on_are_marked_and_stand_apart(page: Page) -> None:
    table = page.html[page.html.index('<table class="numbers">') : page.html.index("</table>")]
    trained, untrained = table.split("Not trained on")
    assert re.findall(r"<bdi>([^<]+)</bdi><span class=\"star\"", trained) == [
        *("BLEU", "Corpus BLEU", "BERTScore F1", "Parse rate")
    ]
    assert "star" not in untrained


def test_key_numbers_carry_corrected_p_values_and_effect_sizes(page: Page) -> None:
    table = page.html[page.html.index('<table class="numbers">') : page.html.index("</table>")]
    head, rows = table.split("</thead>")
    assert re.search(r">p</th>.*>Effect</th>.*>Verdict</th>", head)
    # BLEU of the fake run: of 72 items nearly all are better, so that no flip is as far, in a
    # family of 18.
    bleu = rows[rows.index("<bdi>BLEU</bdi>") : rows.index("<bdi>Corpus BLEU</bdi>")]
    p, effect = re.findall(r'<td class="num extra">([^<]+)</td>', bleu)
    assert (p, effect[:3]) == ("0.001", "+1.")


def test_the_gallery_shows_at_most_24_items(page: Page) -> None:
    gallery = page.html[page.html.index('id="gallery"') :]
    assert gallery.count('<article class="card') == 24
    assert page.html.count('<article class="card') == 24 + 3  # one of each group comes first
    for title in ("Improved most", "In the middle", "Got worst"):
        assert title in page.text


def test_the_page_is_small(page: Page) -> None:
    assert len(page.html.encode()) < 3_000_000


def test_the_same_run_gives_the_same_bytes(run: Path, page: Page, tmp_path: Path) -> None:
    assert build_report(run, out=tmp_path / "again" / "page.html").read_text("utf-8") == page.html


def test_a_page_is_written_after_its_summary_so_that_where_it_stands_nothing_lacks(small: Path, tmp_path: Path) -> None:
    run = copy_without(small, tmp_path / "run")
    for name in ("report.html", "summary.html"):
        (run / name).unlink(missing_ok=True)
    (run / "summary.html").mkdir()  # ends the writing here, as a kill may
    with pytest.raises(IsADirectoryError):
        build_report(run)
    assert not (run / "report.html").exists()


def test_right_to_left_text_is_isolated(odd_page: Page) -> None:
    assert "حقيبة" in odd_page.text
    directions = [value for tag, name, value in odd_page.attributes if tag == "dd" and name == "dir"]
    assert directions
    assert set(directions) == {"auto"}


def test_long_texts_are_cut_and_say_by_how_much(odd_page: Page) -> None:
    # 5,000 x: 240 are shown.
    assert "… 4,760 more characters" in odd_page.text
    assert "x" * 241 not in odd_page.text


def test_a_metric_that_was_never_scored_is_named_not_zero(odd_page: Page) -> None:
    assert "Not scored: BERTScore F1." in odd_page.text


def test_the_reason_of_a_metric_without_scores_is_that_of_its_own_encoder(tmp_path: Path) -> None:
    run = VARIANTS["odd"](tmp_path / "run")
    path = run / "evaluations/final/cqbench/summary.json"
    reasons = {"dinov2": "switched off in the recipe", "bertscore": "cannot load 'roberta-large'"}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"missing": reasons}))
    text = Page(build_report(run)).text
    assert "Not scored: BERTScore F1 (bertscore: cannot load 'roberta-large')." in text
    assert "dinov2" not in text.split("What exactly ran")[0]


def test_a_category_with_one_item_has_no_interval_and_no_verdict(odd_page: Page) -> None:
    assert "1 category has too few items to tell" in odd_page.text
    row = odd_page.html[odd_page.html.index("<bdi>Lonely</bdi>") :]
    assert 'aria-label="too few items"' in row[: row.index("</div>")]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("config.yaml", "config.yaml is missing: the configuration is unknown."),
        ("manifest.json", "manifest.json is missing: command, versions and hardware are unknown."),
        ("metrics.jsonl", "metrics.jsonl is missing: there are no training curves."),
        ("comparison.json", "comparison.json is missing: nothing is compared."),
        ("evaluations", "No evaluation of cqbench was found under evaluations/."),
        ("evaluations/base/cqbench/samples.parquet", "The gallery of image to text is empty"),
    ],
)
def test_a_missing_file_is_said_and_the_rest_is_shown(small: Path, tmp_path: Path, name: str, note: str) -> None:
    page = Page(build_report(copy_without(small, tmp_path / "run", name)))
    assert note in page.text
    assert ("BLEU rose" in page.text) == (name != "comparison.json")
    assert ("While training" in page.text) == (name != "metrics.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("comparison.json", "{", "comparison.json is not valid JSON"),
        ("comparison.json", '{"before": "base"}', "comparison.json is not a comparison"),
        ("comparison.json", "[]", "comparison.json holds a list, expected an object"),
        (
            "comparison.json",
            '{"before": "../../other", "after": "final", "resamples": 9, "tasks": {}}',
            "is not the name of a folder in the run",
        ),
        ("manifest.json", "null", "manifest.json holds a NoneType"),
        ("config.yaml", "a: [", "config.yaml: not valid YAML"),
        ("metrics.jsonl", '{"step": 1, "reward": 0.5}\n{"step": 2, "rew', "1 line could not be read and was left out"),
        ("evaluations/final/cqbench/samples.parquet", "PAR1", "the samples cannot be read"),
        ("evaluations/base/cqbench/summary.json", "", "the evaluation of base is left out of the curves"),
    ],
)
def test_a_broken_file_is_said_and_the_rest_is_shown(
    small: Path, tmp_path: Path, name: str, content: str, note: str
) -> None:
    broken = copy_without(small, tmp_path / "run", "report.html")
    (broken / name).write_text(content)
    if name == "metrics.jsonl":  # a kill cuts its last line
        build_report(broken)
    else:
        with pytest.raises(EvaluationError, match="shows the rest"):
            build_report(broken)
    page = Page(broken / "report.html")
    assert note in page.text
    assert "What exactly ran" in page.text


def test_a_page_that_stands_is_not_replaced_by_one_of_broken_files(small: Path, tmp_path: Path) -> None:
    broken = copy_without(small, tmp_path / "run")
    good = build_report(broken).read_bytes()
    for name in ("base", "final"):
        (broken / f"evaluations/{name}/cqbench/samples.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(EvaluationError, match=r"samples cannot be read .* was left as it was"):
        build_report(broken)
    assert (broken / "report.html").read_bytes() == good


def test_an_interrupted_run_says_that_there_is_no_result(tmp_path: Path) -> None:
    page = Page(build_report(VARIANTS["interrupted"](tmp_path / "run")))
    assert "No result yet" in page.text
    assert "The run has not finished" in page.text
    assert "Learning curves" in page.text


def test_an_interrupted_run_shows_the_base_model_and_the_command_that_continues(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", checkpoints=["base"], steps=3, items_per_category=4, images=False)
    text = Page(build_report(run)).text
    assert "Image to text, the base model before training: BLEU 0." in text
    assert f"The same command goes on where it stopped: grpo-mmpc train {run / 'config.yaml'}" in " ".join(text.split())


def test_a_folder_that_is_no_run_is_refused_and_nothing_is_written_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    site = tmp_path / "site"
    (site / "evaluations").mkdir(parents=True)
    theirs = {"manifest.json": '{"name": "a shop"}', "config.yaml": "a: 1", "report.html": "theirs"}
    for name, content in theirs.items():
        (site / name).write_text(content)
    for folder in (tmp_path, tmp_path / "nowhere", site):
        with pytest.raises(EvaluationError, match="is not a run folder: expected one of"):
            build_report(folder)
    assert {path.name: path.read_text() for path in site.iterdir() if path.is_file()} == theirs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "site"]


def test_tokens_are_masked(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    model = f"rewards: {{mix: []}}\nmodel: {{init_kwargs: {{token: {secret}}}}}\n"
    (tmp_path / "config.yaml").write_text(f"{model}trainer:\n  hub_token: plainword\n  pad_token: <pad>\n")
    manifest = {"command": f"grpo-mmpc train x.yaml trainer.hub_token=plainword model.init_kwargs.token={secret}"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    page = Page(build_report(tmp_path))
    assert secret not in page.html and "plainword" not in page.html
    assert "hub_token: null" in page.text and "trainer.hub_token=***" in page.text
    assert "pad_token: <pad>" in page.text


def test_no_image_outside_the_run_and_its_catalogue_is_shown(small: Path, tmp_path: Path) -> None:
    """A run folder of somebody else may name any file of this machine."""
    run = copy_without(small, tmp_path / "run")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(secret)
    (run / "link.png").symlink_to(secret)
    (run / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    named = [str(secret), str(run / ".." / "secret.png"), str(run / "link.png"), str(run / "drawing.png")]
    for checkpoint in ("base", "final"):
        file = run / f"evaluations/{checkpoint}/cqbench/samples.parquet"
        table = pq.read_table(file)
        paths = [named[i % len(named)] for i in range(table.num_rows)]
        table = table.set_column(table.column_names.index("image_path"), "image_path", [paths])
        rendered = [named[i % 2] for i in range(table.num_rows)]
        pq.write_table(table.set_column(table.column_names.index("rendered_image"), "rendered_image", [rendered]), file)
    page = Page(build_report(run))
    assert page.html.count("no image") > 4
    assert "img" not in page.tags


@pytest.mark.parametrize("names", ["relative", "absolute"])
def test_a_run_and_its_catalogue_show_images_wherever_they_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """The samples name the images where they lay while the run was made."""
    before, after = tmp_path / "before", tmp_path / "after"
    build_run(
        before / "runs/mine",
        categories=("Bags",),
        items_per_category=6,
        checkpoints=("base", "final"),
        resamples=100,
    )
    (before / "runs/mine/catalogue").rename(before / "shop")
    (before / "shop/items.jsonl").touch()
    named = ("shop", "runs/mine") if names == "relative" else (str(before / "shop"), str(before / "runs/mine"))
    for checkpoint in ("base", "final"):
        file = before / f"runs/mine/evaluations/{checkpoint}/cqbench/samples.parquet"
        table = pq.read_table(file)
        paths = [str(before / "shop/images" / Path(path).name) for path in table["image_path"].to_pylist()]
        pq.write_table(table.set_column(table.column_names.index("image_path"), "image_path", [paths]), file)
    named_in = CONFIG.replace("runs/fake", named[1]).replace("nano:catalogue", named[0])
    (before / "runs/mine/config.yaml").write_text(named_in)
    monkeypatch.chdir(before)
    shown = Page(build_report(Path("runs/mine"))).tags.count("img")
    shutil.copytree(before, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert Page(build_report(Path("runs/mine"))).tags.count("img") == shown, "the old places are there, and outside"
    before.rename(after)
    for place in (after, tmp_path):  # whichever folder the command is started in
        monkeypatch.chdir(place)
        assert Page(build_report(after / "runs/mine")).tags.count("img") == shown > 4
    evaluation = after / "runs/mine/evaluations/final/cqbench"
    apart = shutil.copytree(after / "runs/mine", tmp_path / "archive/of/runs/mine")
    page = Page(build_report(apart))
    assert page.tags.count("img") < shown and "--catalogue DIR shows them" in page.text
    page = Page(build_report(apart, catalogue=after / "shop"))
    assert page.tags.count("img") == shown and "--catalogue DIR" not in page.text
    references = read_references(evaluation, task="text_to_image", set_aside=[])
    assert all(Path(one.image).is_relative_to(after / "shop") and Path(one.image).is_file() for one in references)


def test_a_comparison_that_is_older_than_the_last_evaluation_is_said(small: Path, tmp_path: Path) -> None:
    stale = copy_without(small, tmp_path / "run")
    comparison = json.loads((stale / "comparison.json").read_text())
    (stale / "comparison.json").write_text(json.dumps(comparison | {"after": "checkpoint-5"}))
    assert "The comparison ends at checkpoint-5, but final has been evaluated since" in Page(build_report(stale)).text


def test_failures_recorded_in_the_manifest_are_shown(small: Path, tmp_path: Path) -> None:
    failed = copy_without(small, tmp_path / "run")
    manifest = json.loads((failed / "manifest.json").read_text())
    manifest |= {"evaluation_failures": ["checkpoint-20: OSError: disk full"], "reward_errors": {"bertscore": 3}}
    (failed / "manifest.json").write_text(json.dumps(manifest))
    page = Page(build_report(failed))
    assert "An evaluation failed: checkpoint-20: OSError: disk full" in page.text
    assert "The reward bertscore failed 3 times" in page.text


def test_one_task_and_no_images_are_fine(tmp_path: Path) -> None:
    run = build_run(
        tmp_path / "run",
        tasks=["image_to_text"],
        images=False,
        categories=["Toys"],
        items_per_category=30,
        resamples=200,
    )
    page = Page(build_report(run))
    assert "img" not in page.tags
    assert page.html.count(">no image<") == 24 + 3
    # One category: nothing to compare across.
    assert "By category" not in page.text
    assert "Text to image" not in page.text


def test_a_reward_of_a_file_is_found_under_the_name_it_is_logged_by(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("rewards: {mix: [{name: 'my/own.py:brand', weight: 0.25}]}")
    rows = [{"step": step, "rewards/brand/mean": 0.1 * step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = Page(build_report(tmp_path))
    assert "trained on brand 0.25" in page.text
    assert "brand reward, weight 0.25" in page.text
