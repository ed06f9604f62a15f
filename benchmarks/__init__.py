"""Throughput of this project beside public peers, side by side in one run: `python -m benchmarks`.

`rows` is the table, `driver` runs it, `workers` are the processes that do the work, `page` writes
docs/benchmarks.md. Peers need environments of their own: see `peers.sh`.
"""
