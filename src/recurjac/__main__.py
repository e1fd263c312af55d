"""`python -m recurjac` is the command line."""

import sys

from recurjac.cli import main

sys.exit(main())
