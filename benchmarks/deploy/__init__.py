"""What an exported file costs and how fast it runs: size, export, load, latency, early exit, low rank.

python -m benchmarks.deploy            # every part that has no record yet, within its budget; then JSON, page, picture
python -m benchmarks.deploy --quick    # a small model: deploy_quick.json, no page
python -m benchmarks.deploy --resume   # keep what `.deploy/` has on record already

All arms of a table run in one process, in turns, on one thread; a ratio is the median of the ratios of its rounds. The
clock is the process's CPU time, which other jobs on the machine do not lengthen as they do the wall's.
"""
