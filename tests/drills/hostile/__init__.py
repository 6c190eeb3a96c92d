"""Hostile inputs, each with the command that meets it and the outcome that is right."""

from tests.drills.hostile import (
    adapters,
    addresses,
    catalogue_rows,
    checkpoints,
    disks,
    images,
    imports,
    interactions,
    models,
    predictions,
    recipes,
    rewards,
    run_folders,
)

_MODULES = (
    *(catalogue_rows, images, interactions, addresses, imports),
    *(predictions, run_folders, models, adapters, checkpoints, recipes, rewards, disks),
)
GROUPS = [group for module in _MODULES for group in module.GROUPS]
