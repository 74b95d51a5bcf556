"""What this folder needs of other libraries and they do not export."""

from timm.models._features import feature_take_indices

__all__ = ["feature_take_indices"]
