"""Hostile inputs, each with the command that meets it and the outcome that is right."""

from tests.drills.hostile import catalogue_rows, images, interactions, predictions

GROUPS = [*catalogue_rows.GROUPS, *images.GROUPS, *interactions.GROUPS, *predictions.GROUPS]
