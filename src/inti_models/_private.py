"""What we need of timm and PyTorch and they do not export. Nothing else imports a private name of another library.

Private attributes that we rely upon are listed in tests/test_private_api.py.
"""

from timm.models._features import feature_take_indices
from timm.models._hub import load_model_config_from_path, save_config_for_hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "TorchDispatchMode",
    "feature_take_indices",
    "load_model_config_from_path",
    "save_config_for_hf",
    "tree_leaves",
]
