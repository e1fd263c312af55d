"""`python -m recurjac_check CERTIFICATE MODEL` prints the verdict; its exit code says the same."""

import sys

from recurjac_check.check import check_files


def main() -> int:
    """The exit code of the verdict."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python -m recurjac_check CERTIFICATE MODEL\n")
        return 2
    verdict = check_files(sys.argv[1], sys.argv[2])
    sys.stdout.write(verdict.text + "\n")
    return verdict.code


if __name__ == "__main__":
    sys.exit(main())
