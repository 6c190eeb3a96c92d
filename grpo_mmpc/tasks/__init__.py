"""The completion tasks: prompt texts, parser of answers, prompt rows."""

from grpo_mmpc.tasks.task import IMAGE_TO_TEXT, SHIPPED, TASKS, TEXT_TO_IMAGE, Task

__all__ = ["IMAGE_TO_TEXT", "SHIPPED", "TASKS", "TEXT_TO_IMAGE", "Task"]
