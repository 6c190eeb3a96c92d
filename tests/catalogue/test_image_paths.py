"""read_image: a catalogue's paths lead into its own folder and nowhere else."""

from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import images, read_image
from grpo_mmpc.catalogue.images import find_image, relative_image_path
from grpo_mmpc.errors import ImageError
from tests.catalogue.image_files import RED, save


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "catalogue"
    save(folder, Image.new("RGB", (4, 4), RED), "images/a.png")
    save(tmp_path, Image.new("RGB", (4, 4), RED), "outside.png")
    return folder


@pytest.mark.parametrize("path", ["../outside.png", "images/../../outside.png", "..\\outside.png", "/etc/passwd"])
def test_a_path_cannot_leave_the_folder(folder, path):
    with pytest.raises(ImageError, match=r"outside the catalogue folder|absolute path"):
        read_image(path, folder=folder)


def test_a_symbolic_link_cannot_leave_the_folder(folder, tmp_path):
    (folder / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ImageError, match="symbolic link to a file outside the catalogue folder; copy the file"):
        read_image("images/link.png", folder=folder)
    (folder / "away").symlink_to(tmp_path)
    with pytest.raises(ImageError, match="outside the catalogue folder"):
        read_image("away/outside.png", folder=folder)


def test_a_folder_with_a_longer_name_is_outside_too(folder, tmp_path):
    save(tmp_path / "catalogue2", Image.new("RGB", (4, 4)), "a.png")
    with pytest.raises(ImageError, match="outside"):
        read_image(tmp_path / "catalogue2" / "a.png", folder=folder)


@pytest.mark.parametrize("path", ["images/a.png", "./images/a.png", "images\\a.png", "images/x/../a.png"])
def test_spellings_of_a_path_inside_the_folder_are_read(folder, path):
    assert read_image(path, folder=folder).size == (4, 4)


def test_an_absolute_path_inside_the_folder_is_read(folder):
    assert read_image(folder / "images" / "a.png", folder=folder).size == (4, 4)


def test_a_link_to_nothing_and_a_loop_of_links_are_image_errors(folder):
    (folder / "images" / "dangling.png").symlink_to("nothing.png")
    with pytest.raises(ImageError, match="does not exist"):
        read_image("images/dangling.png", folder=folder)
    (folder / "images" / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=r"cannot be opened: .*symbolic links"):
        read_image("images/loop.png", folder=folder)


def test_a_link_inside_the_folder_is_read(folder):
    (folder / "images" / "b.png").symlink_to("a.png")
    assert read_image("images/b.png", folder=folder).size == (4, 4)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("images/b.png", r"images/b\.png does not exist; add the file"),
        ("images/A.PNG", r"does not exist \(but a\.png does\)"),
        ("images/a.jpg", r"does not exist \(but a\.png does\)"),
        ("pictures/a.png", "nor does the folder pictures"),
        ("images", "is not a file"),
        ("images/" + "x" * 300, "cannot be opened"),
        ("https://example.com/a.png", "web address"),
        ("data:image/png;base64,AAAA", "web address"),
        ("C:\\photos\\a.png", "absolute path"),
        (".", "names no file"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(folder, path, message):
    with pytest.raises(ImageError, match=message):
        read_image(path, folder=folder)


def test_a_hundred_missing_images_look_through_the_folder_once(folder, monkeypatch):
    stems = []
    monkeypatch.setattr(images, "_stem", lambda name: stems.append(name) or name)
    for number in range(50):
        save(folder, Image.new("RGB", (4, 4)), f"images/there-{number}.png")
    for number in range(100):
        with pytest.raises(ImageError, match="does not exist"):
            find_image(f"images/gone-{number}.png", folder=folder)
    assert len(stems) == 100 + len(list((folder / "images").iterdir()))


@pytest.mark.parametrize(("written", "asked"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_accents_composed_in_another_way_are_the_same_name(folder, written, asked):
    save(folder, Image.new("RGB", (4, 4)), f"images/{written}.png")
    assert read_image(f"images/{asked}.png", folder=folder).size == (4, 4)


def test_a_catalogue_s_path_comes_out_with_forward_slashes():
    assert relative_image_path(".\\images\\Ä ö.jpg") == "images/Ä ö.jpg"
