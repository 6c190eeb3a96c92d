"""Hostile inputs, each with the command that meets it and the outcome that is right."""

from tests.drills.hostile import catalogue_rows, images, interactions, predictions, recipes, rewards

GROUPS = [
    group for module in (catalogue_rows, images, interactions, predictions, recipes, rewards) for group in module.GROUPS
]
