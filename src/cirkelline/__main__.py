"""`python -m cirkelline` is the command `cirkelline`."""

from __future__ import annotations

import sys

from cirkelline.runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
