"""Review a completed catalogue: a page, a file to mail, or the catalogue that a review leaves."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from grpo_mmpc.completion.apply import Undecided, apply_decisions
from grpo_mmpc.completion.export import can_be_exported
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.reports.catalogue.completion_page import write_completion_page
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.catalogue.review_page import write_review_page
from grpo_mmpc.reports.catalogue.review_server import ReviewServer
from grpo_mmpc.utils.console import next_command, printer
from grpo_mmpc.utils.locks import hold

LOCK = ".review.lock"
_NAMED = 20

say = printer(True)


def serve_review(folder: Path, *, by: str, port: int = 0) -> None:
    """Serve the page of a review until this process is interrupted.

    Args:
        folder: A completed catalogue; decisions are appended to its ``decisions.jsonl``.
        by: The reviewer's name, which each of them bears.
        port: 0 takes a free one.

    Raises:
        CatalogueError: The folder holds no completion, or somebody else reviews it.
        GrpoMmpcError: The port is in use.
        OSError: The folder cannot be written.
    """

    def refuse(owner: str) -> CatalogueError:
        return CatalogueError(
            f"{folder} is being reviewed ({owner}); wait until that ends, or write a page of your own with --html FILE"
        )

    if not folder.is_dir():
        raise CatalogueError(f"{folder} is no folder; give one that grpo-mmpc complete has written")
    with hold(folder / LOCK, refuse=refuse), closing(Review(folder)) as review:
        server = ReviewServer(review, by=by, port=port)
        with server:
            say(f"{_tally(review)}; decisions go to {review.log}, as by {by}")
            say(f"Review: {server.address}")
            say("The address is the key: give it to nobody. Stop with Ctrl-C; given again, it goes on where you were.")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say(f"\n{_tally(review)}")
    say(next_command("review", folder, "--apply", "REVIEWED"))


def mail_review(folder: Path, page: Path) -> None:
    """Write the page of a review as one file.

    Raises:
        CatalogueError: The folder holds no completion.
    """
    with closing(Review(folder)) as review:
        write_review_page(page, review)
        say(f"{_tally(review)}\nPage: {page}, {page.stat().st_size / 1e6:.1f} MB, to open anywhere without network")
    say("Its button saves the decisions as a file; with the FILE that comes back:")
    say(next_command("review", folder, "--apply", "REVIEWED", "--decisions", "FILE"))


def apply_review(folder: Path, out: Path, *, files: Sequence[Path], undecided: Undecided) -> None:
    """Write the catalogue that a review leaves, and say what is in it; see ``apply_decisions``."""
    done = apply_decisions(folder, out, files=files, undecided=undecided)
    for what, count in sorted(done.counts.items()):
        say(f"{count:>7,} {what}")
    for reason in done.left_out[:_NAMED]:
        say(f"! {reason}")
    if len(done.left_out) > _NAMED:
        say(f"! and {len(done.left_out) - _NAMED} more decisions that hold for nothing")
    write_completion_page(out, catalogue=folder, notes=done.left_out[:_NAMED])
    say(f"Catalogue: {out}")
    following = ("export", out, "--out", "FILE") if can_be_exported(out) else ("validate", out)
    say(next_command("data", *following))


def _tally(review: Review) -> str:
    decided = sum(review.decided(one) is not None for one in review.proposals)
    return f"{review.folder}: {decided:,} of {len(review.proposals):,} proposals decided"
