"""Does training under a memory plan cost accuracy? Two architectures, every plan, several seeds, one data order.

    python -m benchmarks.accuracy

trains what has no record yet, and writes benchmarks/results/accuracy.json, docs/accuracy.md and docs/accuracy.png.
"""
