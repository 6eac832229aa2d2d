"""``python -m curvekit.cli``: the same as the command ``curvekit``."""

import sys

from curvekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
