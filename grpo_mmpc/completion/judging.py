"""From an answer to its proposal, with what the gate says of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.completion.calibration import Calibration
from grpo_mmpc.completion.gate import confidences, judge, signals_of, signals_of_values
from grpo_mmpc.completion.part import Answer
from grpo_mmpc.completion.plan import Provenance
from grpo_mmpc.completion.proposal import Proposal
from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.metrics.constraints import Constraints
from grpo_mmpc.metrics.fields import Fields
from grpo_mmpc.tasks import Task
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.hashing import number


def proposal_of(provenance: Provenance, task: Task, answer: Answer, *, is_asked: bool) -> Proposal:
    """Return the proposal of an answer, not judged yet.

    Args:
        provenance: What the policy's answers depend on.
        task: Says which field is filled.
        answer: The answer.
        is_asked: Whether the policy was asked; else the catalogue itself gave the value.
    """
    renderer = {"renderer": provenance.renderer} if task.target == "image" else {}
    return Proposal(
        item_id=answer.item_id,
        field=answer.field,
        value=answer.value,
        source=answer.source,
        source_item=answer.source_item,
        policy=provenance.policy if is_asked else None,
        model=provenance.model if is_asked else None,
        adapter=provenance.adapter if is_asked else None,
        prompt=provenance.prompts[task.name] if is_asked else None,
        sampling={**provenance.sampling[task.name], **renderer} if is_asked else {},
        status="failed" if answer.value is None else "review" if answer.doubt else "accepted",
        reasons=[text for text in (answer.reason, answer.detail, answer.doubt) if text],
    )


class Gate:
    """The gate, with what it knows of a whole catalogue."""

    def __init__(
        self, settings: GateSection, records: Iterable[ProductRecord], calibration: Calibration | None
    ) -> None:
        """Learn the titles of a catalogue, and the values that its attributes take.

        Args:
            settings: Thresholds and constraints.
            records: Its items.
            calibration: What the agreement of samples is worth; None takes it for the confidence.
        """
        self._calibration = calibration
        self._settings = settings
        self._constraints = Constraints(**settings.constraints) if settings.constraints else None
        # 64-bit hashes instead of titles, whatever their length.
        self._titles: set[int] = set()
        self._fields = Fields(self._attributes(records))

    def _attributes(self, records: Iterable[ProductRecord]) -> Iterator[Mapping[str, str]]:
        for record in records:
            if record.title is not None:
                self._titles.add(number(title_key(record.title)))
            yield record.attributes

    def judge(self, proposal: Proposal, record: ProductRecord, answer: Answer) -> Proposal:
        """Return a proposal with its signals, confidence and status; an image's as it is.

        Constraints and calibration are those of titles.
        """
        text, field = proposal.value, proposal.field
        if text is None or field == "image":
            return proposal
        violated, witness = [], "attributes say"
        if field == "attributes":
            signals = signals_of_values(text, samples=answer.samples, title=record.title, fields=self._fields)
            witness = "title says"
        else:
            if field == "title" and self._constraints:
                violated = self._constraints.check(text, record.attributes)
            signals = signals_of(
                text,
                samples=answer.samples,
                attributes=record.attributes,
                fields=self._fields,
                violated=violated,
                # A variant's title may well be the same.
                is_duplicate=(field, proposal.source) == ("title", "model") and number(title_key(text)) in self._titles,
                whole=field,
            )
        confidence = confidences(signals)
        if self._calibration is not None and field == "title":
            confidence = {kind: self._calibration.probability(kind, share) for kind, share in confidence.items()}
        status, reasons = judge(signals, confidence=confidence, violated=violated, gate=self._settings, witness=witness)
        return replace(
            proposal,
            signals=signals,
            confidence=min(confidence.values(), default=None),
            status="review" if proposal.reasons else status,
            reasons=[*proposal.reasons, *reasons],
        )

    def remember(self, proposal: Proposal) -> None:
        """Count a proposed title among those of the catalogue: the next like it is a duplicate."""
        if proposal.field == "title" and proposal.value is not None:
            self._titles.add(number(title_key(proposal.value)))
