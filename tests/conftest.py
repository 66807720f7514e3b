"""One thread a test process: two workers on two cores beat one worker with two threads, and results stay exact."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("without_deadline")
