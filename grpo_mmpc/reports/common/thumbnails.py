"""Small copies of images, as data URIs: of the run's own folder and of its catalogue, no others."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

_SIZES = (512, 384, 256, 192, 128, 96, 64)


def thumbnails(
    paths: Iterable[Path], *, folders: Sequence[Path], budget: int, largest_px: int = 256
) -> Mapping[Path, str]:
    """Return data URIs of images, all at the largest size at which together they fit the budget.

    ``budget`` is in bytes, ``largest_px`` the longer side at most. Files that are no
    readable images, and those outside the folders (symbolic links followed), are left out: whoever
    made a run folder may have named any file of this machine in it.
    """
    unique = list(dict.fromkeys(paths))
    encoded: dict[Path, str] = {}
    for size in (size for size in _SIZES if size <= largest_px):
        encoded = {path: uri for path in unique if (uri := _thumbnail(path, folders=folders, size=size)) is not None}
        if sum(map(len, encoded.values())) <= budget:
            break
    return encoded


def _thumbnail(path: Path, *, folders: Sequence[Path], size: int) -> str | None:
    from grpo_mmpc.catalogue.images import decode_image, find_image, find_moved_image  # heavy: imported on use

    for folder in folders:
        try:
            place = find_moved_image(path.absolute(), folder=folder.absolute())
            with find_image(place, folder=folder).open("rb") as stream:
                image = decode_image(stream, name=path.name, shrink_to_px=2 * size)
        except (ImageError, OSError):  # the page shows that there is no image
            continue
        image.thumbnail((size, size))
        return _data_uri(image)
    return None


def _data_uri(image: "Image.Image") -> str:
    drawn, photo = io.BytesIO(), io.BytesIO()
    image.save(drawn, "PNG", optimize=True)
    image.save(photo, "JPEG", quality=80, optimize=True)
    content, kind = (drawn, "png") if drawn.tell() <= 1.2 * photo.tell() else (photo, "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
