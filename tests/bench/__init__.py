"""The benchmark: what a heartbeat costs, how late beats are, how long detection takes.

`make bench` runs it; docs/performance.md says what its numbers mean.
"""
