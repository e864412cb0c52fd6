"""``python -m hbtrio`` is ``hbtrio``."""

import sys

from hbtrio.cli import main

if __name__ == "__main__":
    sys.exit(main())
