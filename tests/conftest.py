"""What all tests share."""

import os

# Set before torch is imported anywhere: tests share two cores, and idle OpenMP threads would spin on them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests start their own Ray; the mode is chosen, never guessed.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
