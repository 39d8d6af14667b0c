"""What training keeps for backward and what that costs: cases, arms, measures, and the page that shows them.

`benchmarks.training_memory` is the command.
"""

import os

# The profiler, which counts what the allocator gives out, else writes two lines a run; read when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
