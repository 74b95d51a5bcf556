"""Files that come with the package: class names, and the weights of small models."""

from pathlib import Path

ASSETS = Path(__file__).parent
