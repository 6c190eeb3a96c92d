"""The page of runs, served: a page for one run; for several a table, and a page of each."""

from collections.abc import Sequence
from importlib import resources

from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.watch.live_run import LiveRun
from grpo_mmpc.reports.watch.page import board_part, run_part
from grpo_mmpc.utils.page_server import LOOPBACK, Content, PageServer


class WatchServer(PageServer):
    """A server that reads files of the runs and of their catalogues, and takes nothing."""

    def __init__(self, runs: Sequence[LiveRun], *, host: str = LOOPBACK, port: int = 0) -> None:
        """Take a port, a free one where it is 0.

        Raises:
            GrpoMmpcError: The port is in use, or the host is none of this machine's.
        """
        super().__init__(host=host, port=port)
        self._runs = runs

    def get(self, route: str) -> Content | None:
        """Return a page, or under ``live`` beside it what changes of it."""
        place, _, name = route.rpartition("/")
        kind, _, number = place.partition("/")
        if place == "" and len(self._runs) > 1:
            part, title = board_part(self._runs), f"{len(self._runs)} runs"
        elif place == "":
            part, title = run_part(self._runs[0]), self._runs[0].name
        elif kind == "run" and number in map(str, range(len(self._runs))):
            part, title = run_part(self._runs[int(number)]), self._runs[int(number)].name
        else:
            return None
        if name == "live":
            return part
        return _page(part, title=title, is_one_of_many=bool(place)) if name == "" else None


def _page(part: str, *, title: str, is_one_of_many: bool) -> str:
    script = resources.files("grpo_mmpc").joinpath("reports/watch/watch.js").read_text(encoding="utf-8")
    return render_page(
        "reports/watch/page.html",
        name=title,
        subtitle=[],
        part=part,
        is_one_of_many=is_one_of_many,
        script=script,
    )
