"""GRPO on a catalogue: TRL's trainer with our additions, wired to rewards, rollouts and evaluation."""
