"""What a user runs: a run and its phases, counters, quality metrics, report, command line."""
