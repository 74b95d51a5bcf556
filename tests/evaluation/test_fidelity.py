"""Fidelity needs no labels, and what a model is compared with costs the same."""

import pytest
import torch
from torch import nn

from inti_models.evaluation.fidelity import Fidelity, Readout, controls, gflops_of, outputs_of
from inti_models.models.heads import CosineHead
from inti_models.models.registry import create_model


def test_a_model_agrees_with_itself_and_not_with_another():
    readout, features = Readout(nn.Linear(8, 5), True), torch.randn(200, 8)
    with torch.no_grad():
        labels = readout.head(features).argmax(dim=1)
    same = Fidelity.of(readout, features, features, labels)
    assert (same.agreement, same.accuracy) == (100, 100)
    assert same.cosine == pytest.approx(1) and same.kl == pytest.approx(0, abs=1e-6)
    other = Fidelity.of(readout, torch.randn(200, 8), features, labels)
    assert other.agreement == other.accuracy < 50 and other.kl > 0.01 and abs(other.cosine) < 0.3


def test_embedding_is_that_of_the_space_shared_with_texts():
    head, a, b = CosineHead(8, 3, 4), torch.randn(5, 8), torch.randn(5, 8)
    with torch.no_grad():
        expected = torch.cosine_similarity(head.projection(a), head.projection(b)).mean().item()
    assert Fidelity.of(Readout(head, True), a, b).cosine == pytest.approx(expected)


def test_labels_are_of_use_where_they_are_of_the_models_own_classes():
    head, labels = nn.Linear(8, 2), torch.tensor([0, 1])
    assert Readout(head, True, label_names=("a", "b")).known(labels, Videos()) is labels
    for others in (("b", "a"), ("c", "d"), ()):
        assert Readout(head, True, label_names=others).known(labels, Videos()) is None


class Videos:
    """Six videos, of which one cannot be read."""

    class_names = ("a", "b")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.full((1, 2, 3, 4, 4), float(index)), index % 2, "It is broken." if index == 2 else ""


def test_outputs_are_in_the_order_of_the_videos_that_can_be_read():
    class Index(nn.Module):
        def forward(self, clips):
            return clips[:, 0, 0, 0, :1]

    outputs, labels = outputs_of({"one": Index(), "two": Index()}, Videos(), batch_size=4, progress=False)
    assert outputs["one"].flatten().tolist() == outputs["two"].flatten().tolist() == [0, 1, 3, 4, 5]
    assert labels.tolist() == [0, 1, 1, 0, 1]
    with pytest.raises(ValueError, match="cannot be read"):
        outputs_of({"one": Index()}, Videos(), batch_size=4, max_unreadable=0, progress=False)


@pytest.mark.parametrize("compress_at", [(2,), (2, 5)])
def test_controls_cost_what_the_compressed_model_does_and_leave_the_teacher_alone(randomize_, compress_at):
    teacher = randomize_(create_model("inti_vit_t8_32_motiondigits", compress_at=(), num_classes=0))
    clip = torch.randn(2, 8, 3, 32, 32)
    before = teacher(clip)
    made, without = controls(teacher, compress_at)
    assert not without and len(made) == 5
    target = gflops_of(create_model("inti_vit_t8_32_motiondigits", compress_at=compress_at, num_classes=0), teacher)
    for name, model in made.items():
        assert gflops_of(model, teacher) == pytest.approx(target, rel=0.1), name  # whole frames, whole tokens
        assert not torch.allclose(model(clip), before, atol=1e-3), name
    assert torch.equal(teacher(clip), before)


def test_a_control_that_cannot_be_says_why():
    teacher = create_model("inti_vit", base="vit_base_patch16_siglip_224", compress_at=(), depth=2, embed_dim=48)
    _, without = controls(teacher, (1,))
    assert list(without) == ["ToMe within frames"] and "global_pool" in without["ToMe within frames"]
