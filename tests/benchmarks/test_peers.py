"""Peers are what they are called: shapes, and GFLOPs that their authors state."""

import sys
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import audit  # noqa: E402
import peers  # noqa: E402
from throughput import INTI, command, pair  # noqa: E402

from inti_models.evaluation.benchmark import Settings  # noqa: E402
from inti_models.models.flops import count_flops  # noqa: E402


@pytest.mark.parametrize("name", ["MViTv2-S", "S3D"])
def test_peer_gives_logits_and_costs_what_its_authors_state(name):
    peer = peers.PEERS[name]
    model, shapes = peers.build(name), []
    model.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape)))
    cost = count_flops(model, (1, *peer.input))  # which computes it once
    assert shapes == [(1, peers.NUM_CLASSES)]
    if peer.published_gflops is not None:
        assert cost.gflops == pytest.approx(peer.published_gflops, rel=0.01)


def test_per_frame_peer_is_the_mean_of_the_image_models_features():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3).eval()
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.inference_mode():
        logits = torch.stack([vit(frame) for frame in clip.unbind(1)]).mean(dim=0)  # the head is linear
        torch.testing.assert_close(peers.PerFrame(vit)(clip), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.slow  # each searches the setting that costs as much
@pytest.mark.parametrize("name", peers.EQUAL_COST)
def test_peers_at_equal_cost_cost_as_much_as_whole_frames_and_tokens_allow(name):
    with torch.device("meta"):
        target, model = audit.zoo(audit.B16, 8, 224), peers.PEERS[name].build()
    cost = audit.count(model, (1, *peers.PEERS[name].input))
    frame = audit.count(model, (1, 1, 3, 224, 224)) if "fewer frames" in name else 0.012 * target
    assert abs(cost - target) <= frame / 2


@pytest.mark.parametrize("name", [*INTI, *peers.PEERS])
def test_every_row_has_a_reference_and_a_command(name):
    subject, reference, described = pair(name)
    assert reference.name.endswith("(naive)") and described["family"] in ("inti", "peer")
    assert subject.input[1] == 3
    assert command(name, Settings()).startswith("python benchmarks/throughput.py --only ")
