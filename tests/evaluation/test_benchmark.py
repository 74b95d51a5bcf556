import argparse
import json

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from inti_models.cli import main
from inti_models.cli.benchmark import add_settings, options_of, settings_of
from inti_models.evaluation import benchmark
from inti_models.evaluation.benchmark import PeakMemory, Runner, Settings, Subject, in_turns, measure, zoo_subject

NAME = "inti_vit_t8_32_motiondigits"


@pytest.mark.parametrize("train", [False, True])
def test_row_joins_what_was_counted_and_what_was_measured(train):
    settings = Settings(seconds=0.1, rounds=3, batch_size=2, train=train)
    row = measure(zoo_subject(NAME), zoo_subject(NAME, compress_at=()), settings, peak_tflops=0.5)
    naive = row["naive"]
    assert row["name"] == NAME and naive["name"] == f"{NAME} (naive)"
    assert row["input"] == [8, 3, 32, 32] and row["batch_size"] == 2 and row["rounds"] >= 3
    assert row["gflops_ratio"] == pytest.approx(0.06125 / 0.09528, abs=1e-3)
    assert row["fraction_of_ideal"] == pytest.approx(row["gflops_ratio"] / row["time_ratio"], rel=1e-2)
    for one in (row, naive):
        ms = one["ms_per_clip"]
        assert 0 < ms["p10"] <= ms["median"] <= ms["p90"]
        assert one["clips_per_second"] == pytest.approx(1e3 / ms["median"], rel=1e-2)
        operations = 2 * one["gflops"] * (3 if train else 1)
        assert one["tflops"] == pytest.approx(operations / ms["median"], rel=1e-2)
        assert one["fraction_of_peak"] == pytest.approx(one["tflops"] / 0.5, abs=1e-3)
    assert row["peak_memory_mib"] > 2.7  # the weights alone


def test_a_training_step_trains_and_inference_does_not():
    for train in (False, True):
        torch.manual_seed(0)
        runner = Runner(zoo_subject(NAME).build(), (8, 3, 32, 32), Settings(train=train))
        before = [p.detach().clone() for p in runner.model.parameters()]
        runner.step(0)
        changed = [not torch.equal(a, b) for a, b in zip(before, runner.model.parameters(), strict=True)]
        assert any(changed) == train
        assert all(p.grad is None for p in runner.model.parameters())


def test_steps_are_taken_in_turns_on_inputs_in_turns(monkeypatch):
    order = []
    runners = {name: Runner(nn.Linear(2, 2), (1, 1, 1, 2), Settings()) for name in "ab"}
    for name, runner in runners.items():
        monkeypatch.setattr(runner, "step", lambda i, name=name: order.append((name, i)))
    measured = in_turns(runners, seconds=0, rounds=3, warm_up=1)
    assert order == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(times) for times in measured.values()] == [3, 3]


@pytest.mark.parametrize("train", [False, True])
def test_peak_memory_is_what_torch_tracks(train):
    model, clip = zoo_subject(NAME).build().train(train), torch.randn(2, 8, 3, 32, 32)

    def step():
        with torch.set_grad_enabled(train):
            loss = model(clip).sum()
        if train:
            loss.backward()
            model.zero_grad()

    tracker = MemTracker()
    tracker.track_external(model, clip)
    with tracker:
        step()
    expected = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    with PeakMemory(*model.parameters(), *model.buffers(), clip) as memory:
        step()
    # torch's tracker rounds the sizes of gradients and of scalars in its own way
    assert memory.peak == pytest.approx(expected, rel=0.01)


def test_peak_memory_of_a_chain_counts_two_tensors_at_once():
    x = torch.zeros(1024)
    with PeakMemory(x) as memory:
        y = x + 1
        for _ in range(5):
            y = y + 1
    assert memory.peak == 3 * 4096
    assert memory.now == 2 * 4096


def test_recomputed_stages_take_less_memory_and_train_alike():
    trained, peaks = [], []
    for stages in ((), (0, 1, 2, 9)):
        torch.manual_seed(0)
        runner = Runner(
            zoo_subject(NAME).build(), (8, 3, 32, 32), Settings(train=True, batch_size=8, checkpoint_stages=stages)
        )
        runner.step(0)
        trained.append(torch.cat([p.detach().flatten() for p in runner.model.parameters()]))
        peaks.append(runner.peak_memory_mib())
    torch.testing.assert_close(trained[1], trained[0], atol=1e-6, rtol=1e-4)
    assert peaks[1] < 0.9 * peaks[0]
    with pytest.raises(ValueError, match="checkpoint_stages are for InTI models"):
        Runner(nn.Linear(2, 2), (1, 1, 1, 2), Settings(checkpoint_stages=(0,)))


def test_best_batch_size_stops_where_the_next_gives_no_more(monkeypatch):
    seconds = {1: 1.0, 2: 1.2, 4: 1.8, 8: 3.6, 16: 7.2}

    def in_turns(runners, *_):
        return {name: [seconds[len(r.clips[0])]] for name, r in runners.items()}

    monkeypatch.setattr(benchmark, "in_turns", in_turns)
    subject = Subject("", lambda: nn.Linear(2, 2), (1, 1, 1, 2))
    assert benchmark.best_batch_size(subject, Settings()) == 4


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            train=True,
            batch_size=None,
            amp="bf16",
            compile=True,
            channels_last=True,
            checkpoint_stages=(0, 2),
            threads=3,
            seconds=0.5,
        ),
    ],
)
def test_options_give_their_settings_back(settings):
    parser = argparse.ArgumentParser()
    add_settings(parser)
    assert settings_of(parser.parse_args(options_of(settings).split())) == settings


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"channels_last": True}])
def test_options_leave_the_logits(options):
    torch.manual_seed(0)
    model = zoo_subject(NAME).build()
    runner = Runner(model, (8, 3, 32, 32), Settings(**options))
    plain = Runner(model, (8, 3, 32, 32), Settings())
    seen = []
    for r in (plain, runner):
        r.step(1, forward=lambda clip: seen.append(model(clip).float()))
    torch.testing.assert_close(seen[1], seen[0], atol=0.05 if "amp" in options else 1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not a number of clips"),
        ({"amp": "int8"}, "amp='int8' is unknown"),
        ({"cuda_graphs": True}, "cuda_graphs needs device='cuda', not 'cpu'"),
    ],
)
def test_bad_setting_is_told_in_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_told_in_a_sentence(capsys):
    assert main(["benchmark", NAME, "--device", "cuda"]) == 1
    assert "--device cuda" in capsys.readouterr().err


def test_command_measures_a_pattern_with_another_schedule(capsys):
    options = ["--frames", "4", "--compress-at", "1,2,3", "--seconds", "0.1", "--threads", "1", "--json"]
    assert main(["benchmark", "inti_vit_t8_32_*", *options]) == 0
    measured = json.loads(capsys.readouterr().out)
    (row,) = measured["rows"]
    assert row["input"] == [4, 3, 32, 32]
    assert row["gflops_ratio"] < 0.45
    assert measured["machine"]["threads"] == 1 and measured["matmul_tflops"] > 0


def test_command_prints_a_table_and_what_it_was_measured_on(capsys):
    assert main(["benchmark", NAME, "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Inference on CPU") and f"| {NAME} | 8 × 32×32 | 1 | 0.06125 |" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [(["nothing*"], "No model matches 'nothing*'"), ([NAME, "--batch-size", "x"], "--batch-size x is neither")],
)
def test_command_tells_bad_input_in_a_sentence(args, message, capsys):
    assert main(["benchmark", *args]) == 1
    assert message in capsys.readouterr().err
