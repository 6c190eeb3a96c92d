"""Recipes and overrides that no run can follow, and options of the libraries below."""

from collections.abc import Callable
from pathlib import Path

from tests.drills.hostile.case import NANO, REFUSED, Case, Group, both, write

CHECK = "train --check recipe.yaml"
ALONE = f"base: {NANO}\n"


def recipe(text: str | bytes) -> Callable[[Path], object]:
    """A recipe that stands on the nano one."""
    return write("recipe.yaml", (ALONE.encode() if isinstance(text, bytes) else ALONE) + text)  # type: ignore[operator]


def _bomb() -> str:
    lines = [f"a0: &a0 [{','.join('x' * 9)}]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    return "\n".join(lines)


def nothing(folder: Path) -> None:
    """Leave the folder empty: the command line alone is odd."""


RECIPES = Group(
    title="Recipes",
    command=CHECK,
    outcome=REFUSED,
    cases=[
        Case(
            "a misspelt name of a file",
            both(write("recipe.yml", ALONE)),
            "1 problem: - recipe.yaml: no such file ... did you mean recipe.yml?",
        ),
        Case("an empty file", write("recipe.yaml", ""), "model: is required and missing"),
        Case("a folder", lambda folder: (folder / "recipe.yaml").mkdir(), "recipe.yaml: is a folder"),
        Case(
            "a list", write("recipe.yaml", "- a\n- b\n"), "recipe.yaml: ... expected a mapping of sections, found list"
        ),
        Case("a tab", recipe("data:\n\tmax_train_items: 3\n"), "recipe.yaml: ... line 3"),
        Case("bytes that are not UTF-8", recipe(b"run_dir: caf\xe9\n"), "recipe.yaml: not UTF-8"),
        Case("a picture", write("recipe.yaml", b"\x89PNG\r\n\x1a\n\0\0"), "recipe.yaml: not UTF-8"),
        Case("a key twice", recipe("seed: 1\nseed: 2\n"), "the key 'seed' appears twice"),
        Case(
            "an unknown key",
            recipe("trainer: {learning_rat: 1}\n"),
            "trainer.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        Case("an unknown section", recipe("trainr: {}\n"), "did you mean 'trainer'?"),
        Case("text for a number", recipe("seed: many\n"), "recipe.yaml: seed: ... found 'many'"),
        Case(
            "a mapping for a list",
            recipe("rewards: {mix: {bleu: 1}}\n"),
            "rewards.mix: input should be a valid list, found {'bleu': 1}",
        ),
        Case("a weight of NaN", recipe("rewards: {mix: [{name: bleu, weight: .nan}]}\n"), "rewards.mix.0.weight"),
        Case("an empty mix", recipe("rewards: {mix: []}\n"), "recipe.yaml: rewards.mix:"),
        Case(
            "a reward that does not exist",
            recipe("rewards: {mix: [{name: blue, weight: 1}]}\n"),
            "did you mean 'bleu'?",
        ),
        Case(
            "a base that includes itself",
            write("recipe.yaml", "base: recipe.yaml\n"),
            "goes in a circle: recipe.yaml -> ",
        ),
        Case(
            "a base that does not exist",
            write("recipe.yaml", "base: gone.yaml\n"),
            "base: no file 'gone.yaml' beside it",
        ),
        Case("anchors that unfold to 9^30 values", recipe(_bomb()), "its anchors unfold to more than 100,000 values"),
        Case("an anchor that holds itself", recipe("data: &a {x: *a}\n"), "an anchor holds itself"),
        Case("2,000 open brackets", recipe("data: " + "[" * 2000), "nested too deep"),
        Case(
            "a tag that runs a program",
            recipe("data: !!python/object/apply:os.system [touch x]\n"),
            "could not determine a constructor",
        ),
        Case("a date that does not exist", recipe("run_dir: 2001-99-99\n"), "month must be in 1..12"),
        Case(
            "a catalogue that does not exist",
            recipe("data: {catalogue: nowhere}\n"),
            "catalogue folder nowhere does not exist",
        ),
        Case("a misspelt embedded catalogue", recipe("data: {catalogue: nano:catalog}\n"), "did you mean"),
        Case(
            "an override without value",
            recipe(""),
            "trainer.max_steps: no such file",
            command="train --check recipe.yaml trainer.max_steps",
        ),
        Case("an override into a number", recipe(""), "has no keys", command="train --check recipe.yaml seed.x=1"),
        Case(
            "an override of half YAML",
            recipe(""),
            "the value of 'seed=[1'",
            command="train --check recipe.yaml seed=[1",
        ),
        Case(
            "an override of position 99",
            recipe(""),
            "addresses a list of 6; use 0 to 5",
            command="train --check recipe.yaml rewards.mix.99.weight=1",
        ),
        Case(
            "a run folder that is a file",
            both(recipe("run_dir: run\n"), write("run", "x")),
            "run: a file stands where a folder is expected",
        ),
        Case("a run folder of something else", both(recipe("run_dir: run\n"), write("run/thesis.tex", "x")), "run"),
        Case("a run folder below /proc", recipe("run_dir: /proc/run\n"), "/proc"),
        Case("more held out than there is", recipe("data: {held_out: 1.5}\n"), "data.held_out"),
    ],
)

OPTIONS = Group(
    title="Options of TRL, PEFT, Transformers, vLLM and encoders",
    command="train --check $NANO run_dir=run OPTION",
    outcome=REFUSED,
    cases=[
        Case(option, nothing, says, command=f"train --check $NANO run_dir=run '{option}'")
        for option, says in (
            ("trainer.learning_rate=fast", "trainer.learning_rate"),
            ("trainer.loss_type=foo", "trainer.loss_type"),
            ("trainer.num_generations=1", "requires at least 2 generations"),
            ("trainer.num_generations=7", "num_generations"),
            ("trainer.optim=schedule_free_adamw", "schedulefree"),
            ("trainer.use_liger_kernel=true", "liger"),
            ("trainer.report_to=wandb", "wandb"),
            ("trainer.push_to_hub=true", "push_to_hub"),
            ("trainer.output_dir=x", "output_dir"),
            ("trainer.max_steps=0", "max_steps"),
            ("trainer.use_vllm=true", "use_vllm"),
            ("trainer.deepspeed=gone.json", "deepspeed"),
            ("trainer.resume_from_checkpoint=gone", "resume_from_checkpoint"),
            ("trainer.temperature=0", "expected a number above 0"),
            ("trainer.accelerator_config=true", "expected a mapping, found True"),
            ("trainer.fsdp_config={fsdp_versionn: 2}", "did you mean 'version'?"),
            ("trainer.deepspeed={zero_optimisation: {stage: 2}}", "did you mean 'zero_optimization'?"),
            ("trainer.optim_args=foo=1", "it does not look at trainer.optim_args"),
            ("model.init_kwargs.dtype=foo", "expected auto, float32, bfloat16 or float16"),
            ("adapter.r=-1", "adapter"),
            ("adapter.r=2000000", "is above 192, the largest rank that a layer it adapts can have"),
            ("adapter.rank_pattern={query: 8}", "did not match any targeted module"),
            ("adapter.modules_to_save=[lm_head]", "an adapter is LoRA alone"),
            ("adapter.target_modules=.*(", "target_modules"),
            ("adapter.init_lora_weights=pissa", "init_lora_weights"),
            ("adapter.inference_mode=true", "inference_mode"),
            ("adapter.peft_type=PREFIX_TUNING", "peft_type"),
        )
    ],
)

GROUPS = [RECIPES, OPTIONS]
