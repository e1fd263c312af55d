"""Under pytest every annotation of the library is checked at every call, and torch computes on one thread."""

from typing import Any

import numpy as np
import torch
from beartype import BeartypeConf, FrozenDict
from beartype.claw import beartype_package

# beartype reads no array of any shape and type but the plain one
arrays: FrozenDict[Any, Any] = FrozenDict({np.ndarray[Any, Any]: np.ndarray})
beartype_package("recurjac", conf=BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, hint_overrides=arrays))
torch.set_num_threads(1)
