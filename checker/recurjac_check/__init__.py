"""An independent checker of recurjac's certificates: see docs/certificates.md."""

from recurjac_check.check import Verdict, check_bytes, check_files

__all__ = ["Verdict", "check_bytes", "check_files"]
