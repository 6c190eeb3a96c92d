"""Completions for prompts: one protocol, its back ends, and the check that they are the policy."""
