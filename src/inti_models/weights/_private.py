"""Names that this folder needs from other libraries, which do not export them."""

from timm.models._hub import _parse_model_cfg as parse_model_cfg
from timm.models._hub import save_config_for_hf

__all__ = ["parse_model_cfg", "save_config_for_hf"]
