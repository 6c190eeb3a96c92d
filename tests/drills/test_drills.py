"""A command that signals hit at random times ends as one that is left alone.

One command and signal, hit as often as wanted::

    GRPO_MMPC_DRILL_HITS=40 pytest -m slow -s tests/drills -k "train-SIGKILL"
"""

import signal

import pytest

from tests.drills.commands import COMMANDS
from tests.drills.disturbing import Drill, hits

HITS = {"train": {signal.SIGKILL: 40}}
USUAL = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module", params=COMMANDS)
def drill(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    """A command, measured without disturbance."""
    return COMMANDS[request.param](tmp_path_factory.mktemp("drill").resolve()).measure()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_what_is_left_is_what_an_undisturbed_run_leaves(drill: Drill, number: signal.Signals) -> None:
    if drill.processes > 1 and number == signal.SIGKILL:
        pytest.skip("who kills a launcher has to kill its processes too")
    wanted = HITS.get(drill.command[0], {}).get(number, USUAL)
    print(f"\n{drill.disturb(number, hits(wanted))}")
