"""Every script of benchmarks/ finds what it takes from the package and from the others."""

import pytest

from support.modules import ROOT, load_module


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_script_can_be_loaded(script):
    assert load_module(f"benchmarks/{script}").__doc__
