"""``python -m inti_models.cli``, as torchrun starts it."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
