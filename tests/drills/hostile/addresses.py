"""Addresses of images, and what a web server answers: ours, on this machine."""

import gzip
import json
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.drills.hostile.case import GOES_ON, SET_ASIDE, Case, Group, Tally, write
from tests.drills.hostile.images import bomb, colours, saved
from tests.drills.hostile.interactions import RECORD, records

PHOTO = saved(colours())
PAGES = {
    "good.jpg": (200, {}, PHOTO),
    "page.jpg": (200, {}, b"<!DOCTYPE html><title>Not found</title>"),
    "html.jpg": (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html>"),
    "empty.jpg": (200, {}, b""),
    "endless.jpg": (200, {}, PHOTO),
    "short.jpg": (200, {"Content-Length": str(len(PHOTO) + 99)}, PHOTO),
    "half.jpg": (200, {}, PHOTO[: len(PHOTO) // 2]),
    "bomb.jpg": (200, {}, bomb()),
    "packed.jpg": (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(200_000_000))),
    "file.jpg": (302, {"Location": "file:///etc/passwd"}, b""),
    "private.jpg": (302, {"Location": "http://127.0.0.2/good.jpg"}, b""),
    "metadata.jpg": (302, {"Location": "http://169.254.169.254/latest/meta-data"}, b""),
    "circle.jpg": (302, {"Location": "circle.jpg"}, b""),
    "moved.jpg": (301, {"Location": "good.jpg"}, b""),
}


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        status, headers, body = PAGES.get(name, (404, {}, b""))
        self.send_response(status)
        if name != "endless.jpg":
            headers = {"Content-Length": str(len(body))} | headers
        for key, value in ({"Content-Type": "image/jpeg"} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        try:
            self.wfile.write(body)
            while name == "endless.jpg":
                self.wfile.write(bytes(1 << 20))
        except OSError:  # the other side has had enough
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@cache
def server() -> str:
    """Start the server, which ends with this process; return its address."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{running.server_port}"


def image_at(address: str) -> Callable[[Path], object]:
    """A record with a good image, and one whose image is at this address, or this page."""

    def make(folder: Path) -> None:
        url = address if ":" in address else f"{server()}/{address}"
        odd = RECORD | {"parent_asin": "B2", "images": [{"variant": "MAIN", "large": url}]}
        records(json.dumps(odd).encode())(folder)

    return make


def in_a_table(page: str) -> Callable[[Path], object]:
    """A CSV file of two items, one with its image at this page."""
    return lambda folder: write("items.csv", f"id,name,image\n1,Kettle,\n2,Mug,{server()}/{page}\n")(folder)


def fetched(folder: Path) -> Tally:
    """Read what became of the second record's image; both records are items."""
    assert len((folder / "out/items.jsonl").read_text().splitlines()) == 2
    failures = folder / "out/image_failures.jsonl"
    failed = len(failures.read_text().splitlines()) if failures.exists() else 0
    return Tally(1, len(list((folder / "out").glob("images/**/*.*"))), failed)


IMPORT = "data import items.csv --out out --allow-host 127.0.0.1"
ADDRESSES = Group(
    title="Addresses of images",
    command="data amazon meta_Kitchen.jsonl --out out --download-images --allow-host 127.0.0.1",
    outcome=SET_ASIDE,
    count=fetched,
    rows=1,
    cases=[
        Case("a page that is gone", image_at("gone.jpg"), "HTTP status 404"),
        Case("nobody listens", image_at("http://127.0.0.1:9/x.jpg"), "(tried 3 times)"),
        Case("a web page that calls itself a JPEG", image_at("page.jpg"), "is a web page"),
        Case("a web page", image_at("html.jpg"), "text/html is no image"),
        Case("an empty answer", image_at("empty.jpg"), "is empty (0 bytes)"),
        Case("half a JPEG", image_at("half.jpg"), "is damaged"),
        Case("fewer bytes than promised", image_at("short.jpg"), "(tried 3 times)"),
        Case("a body without end", image_at("endless.jpg"), "more than 20,000,000 bytes"),
        Case("200 MB of zeros in 200 kB", image_at("packed.jpg"), "more than 20,000,000 bytes"),
        Case("a PNG of 60,000 x 60,000 pixels", image_at("bomb.jpg"), "3,600,000,000 pixels, the limit is"),
        Case("a redirect to file:", image_at("file.jpg"), "file:///etc/passwd is no http(s) address"),
        Case("a redirect to this machine", image_at("private.jpg"), "127.0.0.2, no public address"),
        Case("a redirect to a cloud's metadata", image_at("metadata.jpg"), "169.254.169.254, no public address"),
        Case("redirects in a circle", image_at("circle.jpg"), "more than 5 redirects"),
        Case("a file of this machine", image_at("file:///etc/passwd"), "is no http(s) address"),
        Case("this machine as a number", image_at("http://2130706434/x.jpg"), "is not a canonical IPv4 address"),
        Case("an address that is none", image_at("http://[::1"), "is no http(s) address"),
        Case("a table: a page that is gone", in_a_table("gone.jpg"), "HTTP status 404", command=IMPORT),
        Case("a table: a redirect to this machine", in_a_table("private.jpg"), "127.0.0.2, no public", command=IMPORT),
        Case("a table: a PNG of 60,000 x 60,000 pixels", in_a_table("bomb.jpg"), "3,600,000,000 pix", command=IMPORT),
        Case("a redirect to the image", image_at("moved.jpg"), "images: 1", GOES_ON),
    ],
)

GROUPS = [ADDRESSES]
