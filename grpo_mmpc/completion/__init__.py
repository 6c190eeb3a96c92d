"""Completing a catalogue by parts.

``plan`` deals what is missing over parts, ``part`` is one of them and its files, ``worker`` fills
parts, ``workers`` starts several, ``merge`` writes the completed catalogue, and ``proposal`` is the
record of one filled field.
"""
