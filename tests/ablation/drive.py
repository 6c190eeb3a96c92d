"""The local engine in a process of its own, to be killed: ``drive.py JOBS.pickle FOLDER``."""

import pickle
import sys
from pathlib import Path

from grpo_mmpc.ablation.folder import only_one
from grpo_mmpc.ablation.jobs import State, state_of
from grpo_mmpc.ablation.runner import run_local

jobs = [job for job in pickle.loads(Path(sys.argv[1]).read_bytes()) if state_of(job) != State.FINISHED]
with only_one(Path(sys.argv[2])):
    outcomes = run_local(jobs, given=[{}, {}], retries=0)
sys.exit(0 if all(outcome.finished for outcome in outcomes.values()) else 130)
