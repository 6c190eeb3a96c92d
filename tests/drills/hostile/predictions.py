"""Files of predictions, references and recorded evaluations, and what is asked of them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drills.hostile.case import GOES_ON, REFUSED, SET_ASIDE, Case, Group, Tally, both, json_lines, write

TITLES = {"a": "Acme Steel Kettle", "b": "Bolt Red Mug 350 ml", "c": "Crane Tea Towel"}
REFERENCES = write("r.jsonl", json_lines(*({"item_id": key, "reference": title} for key, title in TITLES.items())))
GOOD = json_lines(*({"item_id": key, "prediction": title} for key, title in TITLES.items()))


def predicted(more: str | bytes) -> Callable[[Path], object]:
    """Three good predictions with their references, and more lines."""
    more = more.encode() if isinstance(more, str) else more
    return both(REFERENCES, write("p.jsonl", GOOD.encode() + more))


def completed(*answers: str) -> Callable[[Path], object]:
    """What a model said for each of the three items."""
    rows = ({"item_id": key, "completion": answer} for key, answer in zip(TITLES, answers, strict=True))
    return both(REFERENCES, write("p.jsonl", json_lines(*rows)))


def scored(folder: Path) -> Tally:
    summary = json.loads((folder / "s.json").read_text())
    aside = len(summary["set_aside"])
    used = summary["items"] + summary["predictions_without_reference"]
    return Tally(used + aside, used, aside)


PREDICTIONS = Group(
    title="Files of predictions",
    command="score --predictions p.jsonl --references r.jsonl --metrics bleu,token_f1 --out s.json",
    outcome=SET_ASIDE,
    count=scored,
    rows=4,
    cases=[
        Case("half a line", predicted('{"item_id": "d", "pred'), "p.jsonl, line 4: not JSON"),
        Case("a key twice", predicted('{"item_id": "d", "item_id": "e"}\n'), "line 4: the key 'item_id' appears twice"),
        Case("bytes that are not UTF-8", predicted(b'{"item_id": "\xff\xfe"}\n'), "p.jsonl, line 4:"),
        Case("NaN as prediction", predicted('{"item_id": "d", "prediction": NaN}\n'), "p.jsonl, line 4:"),
        Case(
            "a list as prediction",
            predicted('{"item_id": "d", "prediction": ["x"]}\n'),
            'line 4: prediction holds ["x"], expected text or null',
        ),
        Case(
            "an item twice",
            predicted('{"item_id": "a", "prediction": "x"}\n'),
            "line 4: item_id 'a' appears twice, first in line 1",
        ),
        Case("no item_id", predicted('{"prediction": "x"}\n'), "line 4: the key item_id is missing"),
        Case(
            "an item that has no reference",
            predicted('{"item_id": "z", "prediction": "x"}\n'),
            "predictions without a reference: 1 (left out)",
            GOES_ON,
        ),
        Case(
            "answers without a title, in place of titles",
            completed('{"title": ', "I cannot help", '{"title": "Crane Tea Towel"}'),
            "malformed predictions: 2 (wrong answers)",
            GOES_ON,
            rows=3,
        ),
        Case(
            "answers nested 20,000 deep",
            completed(*['{"a":' * 20_000] * 3),
            "malformed predictions: 3 (wrong answers)",
            GOES_ON,
            rows=3,
        ),
        Case(
            "a prediction of a million characters",
            predicted(json_lines({"item_id": "d", "prediction": "mug " * 250_000})),
            "left out",
            GOES_ON,
        ),
        Case(
            "an empty file",
            both(REFERENCES, write("p.jsonl", "")),
            "p.jsonl holds no row; write one JSON object per line",
            REFUSED,
        ),
        Case("no file", REFERENCES, "p.jsonl does not exist", REFUSED),
        Case(
            "a catalogue in the place of predictions",
            both(REFERENCES, write("p.jsonl", json_lines({"item_id": "a", "title": "x"}))),
            "no row has the key prediction (found: item_id, title)",
            REFUSED,
        ),
        Case(
            "predictions of another catalogue",
            both(REFERENCES, write("p.jsonl", json_lines({"item_id": "z", "prediction": "x"}))),
            "",
            REFUSED,
        ),
        Case(
            "references that name no title",
            both(write("r.jsonl", json_lines({"item_id": "a"})), write("p.jsonl", GOOD)),
            "r.jsonl, line 1: the key reference is missing",
            REFUSED,
        ),
        Case(
            "a misspelt metric",
            predicted(""),
            "did you mean 'bleu'?",
            REFUSED,
            "score --predictions p.jsonl --references r.jsonl --metrics blue",
        ),
    ],
)


def evaluation(name: str, *, cut: int = 0, summary: str | None = None, **columns: Any) -> Callable[[Path], object]:
    """An evaluation folder of three items, as ``score --as-evaluation`` writes it, then spoilt."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows: dict[str, list[Any]] = {
            "task": ["image_to_text"] * 3,
            "item_id": list(TITLES),
            "category": ["Kitchen"] * 3,
            "reference": list(TITLES.values()),
            "prediction": list(TITLES.values()),
            "completion": [json.dumps({"title": title}) for title in TITLES.values()],
            "format": ["json"] * 3,
            "prompt": [""] * 3,
            "attributes": ["{}"] * 3,
            "group": list(TITLES),
            "image_path": [None] * 3,
            "rendered_image": [None] * 3,
        }
        out = io.BytesIO()
        kept = {key: value for key, value in (rows | columns).items() if value is not None}
        pq.write_table(pa.table(kept), out)
        write(f"{name}/samples.parquet", out.getvalue()[: -cut or None])(folder)
        if summary is not None:
            write(f"{name}/summary.json", summary)(folder)

    return make


SUMMARY = json.dumps({"suite": "x", "version": "1", "mode": "corrected", "tasks": {}})
EVALUATIONS = Group(
    title="Recorded evaluations",
    command="score --predictions e --metrics bleu --out s.json",
    outcome=REFUSED,
    cases=[
        Case("an empty folder", lambda folder: (folder / "e").mkdir(), "e holds no predictions"),
        Case("samples.parquet without its end", evaluation("e", cut=60), "e/samples.parquet cannot be read"),
        Case(
            "half of summary.json",
            evaluation("e", summary='{"mode": '),
            "image_to_text, corrected mode: 3 items",
            GOES_ON,
        ),
        Case(
            "a list as summary.json", evaluation("e", summary="[]"), "image_to_text, corrected mode: 3 items", GOES_ON
        ),
        Case("no column item_id", evaluation("e", item_id=None), "e/samples.parquet has no column item_id"),
        Case("no column task", evaluation("e", task=None), "e/samples.parquet has no column task"),
        Case("no column category", evaluation("e", category=None), "e/samples.parquet has no column category"),
        Case(
            "attributes that are no JSON",
            evaluation("e", attributes=["{", "", None]),
            "e/samples.parquet: attributes hold '{', no JSON object",
        ),
        Case(
            "numbers in the place of titles",
            evaluation("e", prediction=[1, 2, 3], reference=[1.5, float("nan"), 2.0]),
            "e/samples.parquet",
        ),
        Case(
            "an item twice",
            evaluation("e", item_id=["a", "a", "b"]),
            "item 'a' appears more than once in image_to_text",
        ),
        Case(
            "an image outside the folder",
            evaluation("e", rendered_image=["../../etc/passwd", None, None]),
            "names an image outside its folder",
            command="score --predictions e --task image_to_text --metrics bleu",
        ),
        Case(
            "compare: an empty folder",
            both(evaluation("e", summary=SUMMARY), lambda folder: (folder / "f").mkdir()),
            "f holds no evaluation: expected samples.parquet",
            command="compare e f",
        ),
        Case(
            "compare: no folder",
            evaluation("e", summary=SUMMARY),
            "f holds no evaluation: expected samples.parquet",
            command="compare e f",
        ),
        Case(
            "compare: half of summary.json",
            both(evaluation("e", summary=SUMMARY), evaluation("f", summary='{"mode": ')),
            "f/summary.json",
            command="compare e f",
        ),
        Case(
            "compare: a summary without scores",
            both(evaluation("e", summary="{}"), evaluation("f", summary="{}")),
            "summary.json",
            command="compare e f",
        ),
        Case(
            "compare: samples.parquet without its end",
            both(evaluation("e", summary=SUMMARY), evaluation("f", summary=SUMMARY, cut=60)),
            "f/samples.parquet",
            command="compare e f",
        ),
    ],
)

GROUPS = [PREDICTIONS, EVALUATIONS]
