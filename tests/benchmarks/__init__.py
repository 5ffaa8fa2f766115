"""Benchmarks: v2t beside what one would write without it, in one run, in turn. `python -m tests.benchmarks --help`."""
