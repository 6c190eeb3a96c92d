"""The server of a review: one page, its items and decisions, for one browser of this machine.

It opens no file but images of the catalogue's items.
"""

from http import HTTPStatus
from typing import Any

from grpo_mmpc.completion.decisions import decide
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.catalogue.review_page import served_entry, served_page
from grpo_mmpc.utils.page_server import Content, PageServer, RefusedError


class ReviewServer(PageServer):
    """A server on the loopback interface."""

    def __init__(self, review: Review, *, by: str, port: int = 0) -> None:
        """Take a port, a free one where it is 0.

        Raises:
            GrpoMmpcError: The port is in use.
        """
        super().__init__(port=port)
        self.review, self.by = review, by

    def get(self, route: str) -> Content | None:
        """Return the page, or one of its entries."""
        if route == "":
            return served_page(self.review, by=self.by)
        kind, _, number = route.partition("/")
        is_number = number.isascii() and number.isdecimal() and len(number) < 10
        if kind == "entry" and is_number and int(number) < len(self.review.proposals):
            return served_entry(self.review, int(number))
        return None

    def post(self, route: str, body: dict[str, Any]) -> Content | None:
        """Record a decision.

        Raises:
            RefusedError: It is about no proposal, or none that may be made.
        """
        if route != "decisions":
            return None
        try:
            proposal = self.review.proposals[self.review.number_of(body.get("item_id"), body.get("field"))]
        except KeyError:
            item, field = str(body.get("item_id"))[:100], str(body.get("field"))[:100]
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no proposal for the {field} of {item}") from None
        try:
            self.review.record(decide(proposal, str(body.get("decision")), body.get("title"), by=self.by))
        except ValueError as error:
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        return {"decided": self.review.decided(proposal)}
