"""The evaluations of a policy while it is trained, by name."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import SUMMARY_FILE
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.suite import Suite
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.evaluation_process import Begin, Outcome
from grpo_mmpc.recbench import benchmark_policy
from grpo_mmpc.training.checkpoint import checkpoint_folder
from grpo_mmpc.utils.console import Progress, printer
from grpo_mmpc.utils.files import copy_folder, read_object
from grpo_mmpc.utils.jobs import Lost, Running
from grpo_mmpc.utils.manifest import now

if TYPE_CHECKING:
    from grpo_mmpc.rollout.engine import Engine
    from grpo_mmpc.training.evaluation_hook import UnderWay
    from grpo_mmpc.training.session import TrainingSession


class LivePolicies:
    """Evaluates the policy in training by name: ``base``, ``checkpoint-N``, ``final``."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        suite: Suite,
        session: "TrainingSession",
        *,
        progress: Progress | None,
        beside: Begin | None = None,
    ) -> None:
        """Prepare the evaluations.

        Args:
            config: The recipe.
            data: Its data.
            suite: What is run.
            session: The training.
            progress: Shown on the main process.
            beside: Evaluates checkpoints beside training (``evaluation.where: servers``).
        """
        self._run_dir = Path(config.run_dir)
        self._config = config
        self._suite = suite
        self._session = session
        self._beside = beside
        self._started = now()
        self._evaluator = Evaluator(
            config,
            data,
            suite,
            evaluations=self._run_dir / "evaluations",
            progress=progress,
            ranks=session.ranks,
        )

    def evaluate(self, name: str) -> "UnderWay | None":
        """Run the suite on a policy; on that before training, ``base``, RecBench too.

        A checkpoint of an earlier step, which an earlier start has left out, is loaded for it. With
        ``beside`` the evaluation of a checkpoint only begins here.
        """
        folder, saved = self._folder(name), self._saved(name)
        step = self._session.step
        is_live = name in ("final", f"checkpoint-{step}") or (name == "base" and step == 0)
        is_earlier = saved is not None and not is_live
        if is_earlier and self._session.ranks.on_main(lambda: (folder / SUMMARY_FILE).is_file()):
            return None
        if self._beside is not None and name.startswith("checkpoint-"):
            return self._begin(name, self._beside)
        held = self._session.holding(saved) if is_earlier and saved is not None else nullcontext()
        known = read_object(folder / SUMMARY_FILE)
        with held:
            self._evaluator.run(lambda: self._engine(name), folder=folder, name=name, policy=self._identity(name))
            self._session.ranks.on_main(lambda: self._report(name, folder, known=known))
            if name == "base":
                self._evaluate_recommendation(name)
        return None

    def _begin(self, name: str, beside: Begin) -> "UnderWay":
        from grpo_mmpc.training.evaluation_hook import UnderWay  # heavy: imported on use

        ranks = self._session.ranks
        begun: list[Running[Outcome | Lost]] = []
        ranks.on_main(lambda: begun.append(beside(name)))  # which fails where no process can start

        def ended() -> Outcome | Lost | None:
            return begun[0].poll()

        def finish(name: str) -> None:
            outcome = ranks.on_main(ended)
            assert outcome is not None  # it is done
            if isinstance(outcome, Lost):
                raise EvaluationError(
                    f"its process was killed, as the system does when memory runs out: {outcome.error}"
                )
            if outcome.failure:
                raise EvaluationError(outcome.failure)
            if ranks.is_main:
                printer(True)(outcome.said)
            if outcome.is_new:
                ranks.on_main(lambda: self._report(name, self._folder(name)))

        return UnderWay(is_done=lambda: ended() is not None, finish=finish)

    def evaluate_final(self, step: int) -> None:
        """Run suite, controls and recommendation benchmark on the trained policy. A collective."""
        last, ranks = self._folder(f"checkpoint-{step}"), self._session.ranks
        if ranks.on_main(lambda: (last / SUMMARY_FILE).is_file()):
            # The last checkpoint holds the final weights, and greedy decoding would give the same
            # completions again.
            if ranks.is_main:
                copy_folder(last, self._folder("final"))
            printer(ranks.is_main)(f"final: the evaluation of checkpoint-{step}")
        else:
            self._session.hook.run(self.evaluate, "final")
        self._session.hook.run(self._evaluate_controls, "final")
        self._session.hook.run(self._evaluate_recommendation, "final")

    def _evaluate_controls(self, name: str) -> None:
        self._evaluator.run_controls(lambda: self._session.engine(base=False), name=name, policy=self._identity(name))

    def _evaluate_recommendation(self, name: str) -> None:
        benchmark_policy(
            self._evaluator,
            lambda: self._engine(name),
            name=name,
            policy=self._identity(name),
        )

    def _report(self, name: str, folder: Path, *, known: object = None) -> None:
        """Send an evaluation that was not ``known`` to the trackers, at the step of its policy."""
        if not self._session.trainer.args.report_to or read_object(folder / SUMMARY_FILE) == known:
            return
        from grpo_mmpc.pipelines.tracking import report_evaluation  # heavy: imported on use

        steps = {"base": 0, "final": self._session.step}
        step = steps[name] if name in steps else int(name.removeprefix("checkpoint-"))
        report_evaluation(self._session.trainer, folder, step=step)

    def _folder(self, name: str) -> Path:
        return self._run_dir / "evaluations" / name / self._suite.name

    def _engine(self, name: str) -> "AbstractContextManager[Engine]":
        return self._session.engine(base=name == "base" and self._saved(name) is None)

    def _saved(self, name: str) -> Path | None:
        """Return the adapter of a policy, whether or not it is written; None for the base model."""
        if name == "base":
            return self._config.asked(None)
        checkpoints = self._run_dir / "checkpoints"
        return checkpoint_folder(checkpoints, self._session.step) if name == "final" else checkpoints / name

    def _identity(self, name: str) -> str:
        saved = self._saved(name)
        if saved is None or saved.is_dir():
            return policy_identity(self._config, adapter=saved)
        # A policy that was never saved has no weights on disk to be known by: it is that of this
        # very process.
        return f"{policy_identity(self._config, adapter=None)} {name} {self._started}"
