"""One exception class per boundary; every message says what was found, where, and what to do."""


class GrpoMmpcError(Exception):
    """Base of every error raised on purpose. The command line prints it without a traceback."""


class ConfigError(GrpoMmpcError):
    """A recipe or override is wrong. Carries every problem found, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the configuration has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


class CatalogueError(GrpoMmpcError):
    """A catalogue cannot be read at all; single broken rows are quarantined instead."""


class ImageError(GrpoMmpcError):
    """One image cannot be used: missing, truncated, too large, outside the catalogue."""


class RewardError(GrpoMmpcError):
    """A reward cannot be loaded, or broke its contract while scoring."""


class ScoringError(GrpoMmpcError):
    """A scoring encoder (BERTScore, CLIP, sentence encoder) cannot be loaded or verified."""


class TrainingError(GrpoMmpcError):
    """A run cannot start or continue."""


class AdapterError(GrpoMmpcError):
    """An adapter's folder is damaged, made to exhaust, or made for another model."""


class RolloutError(GrpoMmpcError):
    """A rollout engine cannot start, answers wrongly, or is not the trained policy."""


class EvaluationError(GrpoMmpcError):
    """A suite cannot be run, or two evaluations cannot be compared."""


class RecBenchError(GrpoMmpcError):
    """Interactions, features or fills cannot be used for the recommendation benchmark."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error without its full stop, or its class if it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__).rstrip(".")
