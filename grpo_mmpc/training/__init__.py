"""GRPO on a catalogue: TRL's trainer, wired to rewards, rollouts and evaluation."""
