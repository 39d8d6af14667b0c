"""What low rank saves at inference: linear FLOPs against exact accuracy, for each choice of bases, on both models.

    python -m benchmarks.lowrank

measures what has no record yet, and writes benchmarks/results/lowrank.json, docs/lowrank.md and docs/lowrank.png.
"""
