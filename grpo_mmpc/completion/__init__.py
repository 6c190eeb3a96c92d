"""Completing a catalogue by parts: what is proposed for each missing field, and how it comes about.

``proposal`` is the record of one filled field.
"""
