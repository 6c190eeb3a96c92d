"""The completion tasks: what is shown, what is withheld, the prompt text, the parser, and prompt rows."""

from grpo_mmpc.tasks.task import IMAGE_TO_TEXT, TASKS, TEXT_TO_IMAGE, Task

__all__ = ["IMAGE_TO_TEXT", "TASKS", "TEXT_TO_IMAGE", "Task"]
