"""``python -m curvekit``: the command ``curvekit``, as a launcher of several processes starts it."""

import sys

from curvekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
