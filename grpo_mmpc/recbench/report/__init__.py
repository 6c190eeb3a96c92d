"""The recommendation benchmark for people: its own page, a section of a run's report, tables in a terminal."""
