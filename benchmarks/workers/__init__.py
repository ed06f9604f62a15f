"""One module per library; each is a process, `python -m benchmarks.workers.NAME VARIANT ...`.

Only `benchmarks.serve` is shared, because a peer's environment does not hold this project.
"""
