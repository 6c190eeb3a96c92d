"""CSV and TSV: open quotes, cells left out, lines above the header, bytes that are no letter."""

import io
from pathlib import Path

import pytest

from grpo_mmpc.catalogue.sources.delimited import find_header, read_header, read_rows, sniff, write_filled

HEADER = "id,name,text,image\n"


def read(tmp_path: Path, content: str | bytes) -> dict[int, dict | str]:
    """Return each row's cells that are not empty, or its problem."""
    source = tmp_path / "items.csv"
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    return {
        raw.row: raw.problem or {name: cell for name, cell in raw.values.items() if cell}
        for raw in read_rows(source, sniff(source))
    }


def filled(tmp_path: Path, cells: dict[int, dict[str, str]]) -> bytes:
    source, out = tmp_path / "items.csv", io.BytesIO()
    write_filled(source, out, sniff(source), cells)
    return out.getvalue()


def row(number: int, name: str, text: str) -> dict[str, str]:
    return {"id": str(number), "name": name, "text": text, "image": f"{number}.png"}


@pytest.mark.parametrize(
    "behind",
    ['3,Pot,"red",3.png\n', "3,Pot,red,3.png\n", '3,"Pot","red",3.png\n', '3,Pot,"re""d"\n,3.png\n3,Pot,red,3.png\n'],
    ids=["a quote before a letter", "no quote", "quoted name", "a broken line"],
)
def test_an_open_quote_costs_no_line_behind_it(tmp_path, behind):
    rows = list(read(tmp_path, f'{HEADER}1,Mug,"24 inch wheel,1.png\n2,Cup,,2.png\n{behind}').values())
    assert rows[0] == row(1, "Mug", '"24 inch wheel')
    assert rows[1] == {"id": "2", "name": "Cup", "image": "2.png"}
    assert rows[-1] == row(3, "Pot", "red")


def test_a_quote_too_many_is_a_letter_where_the_cells_then_fit_the_header(tmp_path):
    lines = ('1,Mug,"Soft" towel,1.png', '"2","Cup","soft,"2.png"', '3,Pot,"a, 12" pan",3.png')
    assert read(tmp_path, HEADER + "\n".join(lines)) == {
        1: row(1, "Mug", '"Soft" towel'),
        2: row(2, "Cup", '"soft'),
        3: row(3, "Pot", 'a, 12" pan'),
    }


def test_lines_behind_an_open_quote_are_no_rows_where_they_may_be_its_text(tmp_path):
    rows = read(tmp_path, f'{HEADER}1,Mug,"says "hello\nworld, warm\n2,Cup,x,2.png\n3,Pot\n')
    assert "line 2 has a quote that is never closed" in rows[1]
    assert "line 3 has 2 cells, the header names 4; it may belong to the text whose quote opens in line 2" in rows[2]
    assert rows[3] == row(2, "Cup", "x")
    assert rows[4] == {"id": "3", "name": "Pot"}


def test_a_text_of_many_lines_is_one_cell_and_written_back_to_the_byte(tmp_path):
    text = '1,,"<p class=""a"">Big,\r\n\r\n""red""\nmug</p>",1.png\r\n2,Cup,"x\ny", "2.png"\r\n'
    rows = read(tmp_path, HEADER + text)
    assert rows[1]["text"] == '<p class="a">Big,\r\n\r\n"red"\nmug</p>'
    assert rows[2] == row(2, "Cup", "x\ny")
    assert filled(tmp_path, {1: {"name": "Mug"}}) == (HEADER + text.replace("1,,", "1,Mug,")).encode()


def test_a_quote_open_from_the_start_is_looked_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr("grpo_mmpc.catalogue.sources.delimited._LONGEST", 1_000)
    behind = "".join(f"{number},Mug,x,{number}.png\n" for number in range(2, 5_000))
    rows = read(tmp_path, f'{HEADER}1,Mug,"open,1.png\n{behind}')
    assert rows == {1: row(1, "Mug", '"open')} | {number: row(number, "Mug", "x") for number in range(2, 5_000)}


def test_surplus_cells_that_are_empty_and_cells_left_out_at_the_end_are_no_fault(tmp_path):
    rows = read(tmp_path, f"{HEADER}1,,red,1.png,,\n2,Cup\n3\n4,Pot,x,4.png,y\n")
    assert rows[1] == {"id": "1", "text": "red", "image": "1.png"}
    assert (rows[2], rows[3]) == ({"id": "2", "name": "Cup"}, {"id": "3"})
    assert "line 5 has 5 cells, the header names 4" in rows[4]
    back = filled(tmp_path, {1: {"name": "Mug"}, 3: {"text": "a, b"}})
    assert back.decode() == f'{HEADER}1,Mug,red,1.png,,\n2,Cup\n3,,"a, b"\n4,Pot,x,4.png,y\n'


def test_spaces_between_separator_and_quote_are_skipped_and_kept(tmp_path):
    assert read(tmp_path, 'id, "name", image\n1, "", a.png\n2, "Mug, red" , b.png\n')[2] == {
        "id": "2",
        "name": "Mug, red",
        "image": " b.png",
    }
    assert filled(tmp_path, {1: {"name": "Pot"}}).decode() == (
        'id, "name", image\n1, "Pot", a.png\n2, "Mug, red" , b.png\n'
    )


@pytest.mark.parametrize(
    ("above", "separator"), [("Product export 2024\n\n", ","), ("Shop: Acme;;\nDate: 1.5.;;\n;;\n", ";")]
)
def test_lines_above_the_header_are_kept_and_are_no_rows(tmp_path, above, separator):
    table = "id,name,image\n1,,a.png\n2,Mug,b.png\n3,Pot,c.png\n".replace(",", separator)
    assert list(read(tmp_path, above + table)) == [1, 2, 3]
    source = tmp_path / "items.csv"
    assert read_header(source, sniff(source)) == ["id", "name", "image"]
    assert find_header(source, sniff(source)).line == above.count("\n") + 1
    assert filled(tmp_path, {1: {"name": "Cup"}}).decode() == above + table.replace("1" + separator, f"1{separator}Cup")


def test_a_header_with_fewer_cells_than_the_rows_is_still_the_header(tmp_path):
    assert "line 2 has 3 cells, the header names 2" in read(tmp_path, "id,name\n1,Mug, red\n2,Pot, red\n")[1]


def test_one_bad_byte_in_a_file_of_utf_8_costs_its_row(tmp_path):
    good = "".join(f"{number},Crème {number},é,a.png\n" for number in range(1, 4))
    content = HEADER.encode() + good.encode() + b"4,Cr\xe8me,x,a.png\n5,,\xc3\xa9,a.png\n6,cut,x,a.png\xc3"
    rows = read(tmp_path, content)
    assert [number for number, found in rows.items() if isinstance(found, str)] == [4, 6]
    assert "line 5 holds bytes that are no letter in UTF-8" in rows[4]
    assert filled(tmp_path, {5: {"name": "Ä"}}) == content.replace(b"5,,", "5,Ä,".encode())


@pytest.mark.parametrize("bad", [b"x", b"\x3d\xd8\n\x00"], ids=["odd byte", "half a pair"])
def test_utf_16_that_is_cut_costs_its_row(tmp_path, bad):
    content = b"\xff\xfe" + "id\tname\timage\n1\t\ta.png\n2\tCup\tb.png\n3\tPot\t".encode("utf-16-le") + bad
    rows = read(tmp_path, content)
    assert rows[2] == {"id": "2", "name": "Cup", "image": "b.png"}
    assert "line 4 holds bytes that are no letter in UTF-16-LE" in rows[3]
    wanted = content.replace("1\t\t".encode("utf-16-le"), "1\tMug\t".encode("utf-16-le"))
    assert filled(tmp_path, {1: {"name": "Mug"}}) == wanted


def test_a_guess_shows_words_by_which_to_see_it(tmp_path):
    source = tmp_path / "items.csv"
    source.write_bytes("id,name\n1,Niño\n2,Sartén\n3,Lámpara\n4,Cojín\n".encode("cp1252"))
    assert str(sniff(source)) == (
        "Windows-1252 (a guess, which reads Niño, Sartén, Lámpara; else --encoding), separated by comma"
    )
    assert str(sniff(source, encoding="cp1252")) == "Windows-1252, separated by comma"


@pytest.mark.parametrize(
    ("named", "written"), [("utf-16", "utf-16-le"), ("utf-16", "utf-16-be"), ("utf-8-sig", "utf-8")]
)
def test_an_encoding_that_is_named_with_its_mark_marks_the_file_once(tmp_path, named, written):
    source, out = tmp_path / "items.csv", io.BytesIO()
    source.write_bytes("\ufeffid,name\n1,\n2,Mug\n".encode(written))
    write_filled(source, out, sniff(source, encoding=named), {1: {"name": "Pot"}})
    assert out.getvalue() == "\ufeffid,name\n1,Pot\n2,Mug\n".encode(written)
