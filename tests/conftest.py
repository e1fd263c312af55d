"""Under pytest every annotation of the library is checked, and torch computes on one thread."""

import jaxtyping
import torch

import tests.typecheck  # the hook below takes it as an attribute of `tests`

jaxtyping.install_import_hook("recurjac", f"{tests.typecheck.__name__}.typecheck")
torch.set_num_threads(1)
