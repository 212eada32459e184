"""Measured comparisons. Each module is run as `python -m benchmarks.NAME`; its last line of output is one JSON object.

`python -m benchmarks` (`make bench`) runs all that need no GPU and keeps their output in benchmarks/results/. A module that needs one
says `NEEDS_GPU = True`.
"""
