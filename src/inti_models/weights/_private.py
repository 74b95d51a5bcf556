"""What this folder needs of other libraries and they do not export."""

from timm.models._hub import load_model_config_from_path, save_config_for_hf

__all__ = ["load_model_config_from_path", "save_config_for_hf"]
