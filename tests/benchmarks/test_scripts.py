"""Every script of benchmarks/ finds what it takes from the package and from the others."""

import pytest
import torch
from timm.layers import use_fused_attn

from support.modules import ROOT, load_module


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_script_can_be_loaded_and_changes_no_setting_of_the_process(script):
    before = settings()
    assert load_module(f"benchmarks/{script}").__doc__
    assert settings() == before


def settings():
    """What decides on the bits that a process computes."""
    precision = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    return use_fused_attn(), torch.get_num_threads(), torch.is_grad_enabled(), *precision
