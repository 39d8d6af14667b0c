"""Is the recursion contracting? The zoo, trained and with weights drawn anew: `python -m benchmarks.dynamics`."""
