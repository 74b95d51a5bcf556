"""Names that this folder needs from other libraries, which do not export them."""

from timm.models._features import feature_take_indices

__all__ = ["feature_take_indices"]
