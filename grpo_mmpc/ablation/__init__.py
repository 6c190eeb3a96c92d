"""Ablations: a grid of mixes and seeds, run, compared and put on one page.

``spec`` reads the file, ``grid`` makes the runs and checks them, ``jobs`` says how far each is,
``folder`` keeps their recipes, ``attempt`` runs one of them and ``runner`` all, ``results`` and
``comparison`` read what came out.
"""
