"""``python -m inti_models``: the command, as torchrun starts it."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
