"""The report of the benchmark: its page, a section of a run's report, tables in a terminal."""
