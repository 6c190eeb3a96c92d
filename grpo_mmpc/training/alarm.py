"""The reward-hacking alarm: a trained reward rises while a monitor falls."""

import math
from collections.abc import Mapping
from statistics import fmean, variance

WINDOW = 10
"""Generation batches whose means are compared: the first ones of the run with the latest."""
ERRORS = 3.0
"""Standard errors by which a mean must have moved."""


class HackingAlarm:
    """Compares the first batches of a run with the latest ones.

    A reward that is optimised rises; that is no news. It is when a monitor, which nobody optimises
    and which should rise with it, falls by more than chance: the policy then exploits something
    that the reward pays for and the monitor does not value.
    """

    def __init__(self, *, trained: list[str], monitors: list[str], window: int = WINDOW) -> None:
        self._trained = trained
        self._monitors = monitors
        self._window = window
        self._history: dict[str, list[float]] = {name: [] for name in (*trained, *monitors)}
        self._ringing: set[str] = set()

    def update(self, means: Mapping[str, float]) -> list[str]:
        """Take in a generation batch; returns a message for each monitor that starts to give alarm.

        Args:
            means: By reward, mean raw value of the batch; rewards that scored nothing are absent.
        """
        for name, mean in means.items():
            if name in self._history:
                self._history[name].append(mean)
                del self._history[name][self._window : -self._window]  # only the two ends are looked at
        before, self._ringing = self._ringing, self._falling()
        return [self._message(name, max(self._trained, key=self._moved)) for name in sorted(self._ringing - before)]

    def state(self) -> dict[str, list[float]]:
        """Return the history, for a checkpoint."""
        return {name: list(history) for name, history in self._history.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Continue from a checkpoint."""
        self._history |= {name: list(history) for name, history in state.items() if name in self._history}
        self._ringing = self._falling()

    @property
    def ringing(self) -> set[str]:
        """The monitors that give alarm now."""
        return set(self._ringing)

    def _falling(self) -> set[str]:
        rising = any(self._moved(name) > ERRORS for name in self._trained)
        return {name for name in self._monitors if self._moved(name) < -ERRORS} if rising else set()

    def _ends(self, name: str) -> tuple[list[float], list[float]]:
        history = self._history[name]
        return history[: self._window], history[-self._window :]

    def _moved(self, name: str) -> float:
        """Return by how many standard errors the mean has moved; 0 while the windows overlap."""
        if len(self._history[name]) < 2 * self._window:
            return 0.0
        first, last = self._ends(name)
        error = math.sqrt((variance(first) + variance(last)) / self._window)
        change = fmean(last) - fmean(first)
        return change / error if error > 0 else math.copysign(math.inf, change) if change else 0.0

    def _message(self, monitor: str, reward: str) -> str:
        ends = {name: tuple(fmean(end) for end in self._ends(name)) for name in (monitor, reward)}
        return (
            f"reward hacking? {reward} rose from {ends[reward][0]:.3f} to {ends[reward][1]:.3f} while the monitor "
            f"{monitor} fell from {ends[monitor][0]:.3f} to {ends[monitor][1]:.3f} (first and latest {self._window} "
            "batches); read the latest rollouts, and weigh the monitor or a reward like it"
        )
