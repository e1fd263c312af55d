"""Measurements of speed; nothing here is a test.

NumPy computes on one thread; its libraries read this setting when they are first imported.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
