"""Files that come with the package: names of classes, and the weights of small models."""

from pathlib import Path

ASSETS = Path(__file__).parent
