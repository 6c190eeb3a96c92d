"""Ablations: a grid of mixes and seeds, run, compared and put on one page.

``spec`` reads the file, ``grid`` makes the runs and checks them, ``attempt`` runs one of them,
``runner`` all of them, ``results`` and ``comparison`` read what came out.
"""
