"""Speed: both sides of every case do the same work. No test looks at a clock."""

import pytest
import torch
from torch import nn

from icmlib import bench, codecs, device
from icmlib.bench import harness
from icmlib.bench.training import finetuning, untrained
from icmlib.config import CodecConfig, FinetuneConfig, replace
from icmlib.losses import rate
from icmlib.studies.profile import load_profile

MODEL = {"N": 8, "M": 12}
COSTED = """
data: {val: 30, test: 40}
task: {steps: 2}
codec: {N: 8, M: 12}
base: {steps: 3, crop: 48}
finetune: {steps: 10, patch_size: 32}
rows: {a: {}, b: {steps: 20}}
rate_task:
  codec: {name: scale_hyperprior_s8, N: 8, M: 12}
  base: {steps: 6, crop: 48, lambda_feature: 0.0}
  chain: {steps: 7}
  points: {q1: {lambda_mse: 10.0}}
  configurations: {T-FT: {parts: [task]}, C-FT: {parts: [encoder]}}
  bridge: {steps: 5, patch_size: 32}
  bridge_at: [q1]
zoo: {m: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 4}, rows: [a]}}
"""


@pytest.mark.parametrize("size", [(80, 72), (32, 32)])
def test_a_step_from_patches_has_the_gradients_of_the_full_decode(size):
    """In float32, and again after the first update; of an image that is one patch, too."""
    pair = bench.generator_step(*size, patch_size=32, **MODEL)
    for _ in range(2):
        ours, theirs = pair.ours(), pair.theirs()
        assert max(float(g.abs().max()) for g in theirs) > 0
        assert pair.difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"layers": 1, "adversarial": "none", "patch_size": 64}])
def test_finetuning_is_that_of_the_plain_loop(changes):
    config = replace(FinetuneConfig(patch_size=32, batch=2, lr=1e-3), changes)
    pair, start = finetuning(config, 64, **MODEL), untrained(**MODEL)
    ours, theirs = pair.ours(2), pair.theirs(2)
    assert pair.difference(ours, theirs) < 1e-3 < pair.difference(ours, [*start.g_s.parameters()])


def test_base_training_is_that_of_compressais_loop():
    pair = bench.base_training(64, batch=2, **MODEL)
    assert pair.ours(3) == pytest.approx(pair.theirs(3), rel=1e-4)


def test_bytes_and_images_of_many_images_are_compressais(codec, scenes):
    for pair in bench.coding(codec, scenes("test")).values():
        assert pair.difference(pair.ours(), pair.theirs()) == 0


def test_ratios_are_of_turns():
    row = harness.compared([(1, 10), (2, 10), (4, 60)])
    assert row == {"ours": 2, "theirs": 10, "ratio": 5, "ratio_low": 5, "ratio_high": 15}


def test_memory_layout_is_restored_and_layers_that_would_crash_are_left_alone(codec):
    """After an error, too. Cheng's encoder begins with a strided 1x1 convolution of 3 channels."""
    with pytest.raises(RuntimeError), device.channels_last(codec):
        assert codec.g_s[0].weight.is_contiguous(memory_format=torch.channels_last)
        raise RuntimeError
    assert codec.g_s[0].weight.is_contiguous()
    cheng = codecs.create(CodecConfig("cheng2020_anchor", N=8))
    narrow, wide = nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(16, 8, 1, stride=2)
    with device.channels_last(cheng, narrow, wide):
        assert all(weight.is_contiguous() for weight in (*cheng.parameters(), narrow.weight))
        assert wide(torch.rand(2, 16, 8, 8)).is_contiguous(memory_format=torch.channels_last)
        before = torch.rand(4, 3, 64, 64)
        narrow(before).sum().backward()
    corners = before[..., ::2, ::2].sum((0, 2, 3))
    torch.testing.assert_close(narrow.weight.grad[0, :, 0, 0], corners)


def test_likelihoods_are_float32_under_autocast(codec):
    x, seen, bits = torch.rand(1, 3, 64, 64), [], []
    codec.g_s[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for precision in ("float32", "bf16"):
        with device.autocast(x.device, precision), torch.no_grad():
            out = codec.eval()(x)
        made = (out["x_hat"], *out["likelihoods"].values())
        assert all(each.dtype == torch.float32 for each in made)
        bits.append(float(rate(out["likelihoods"], x[0, 0].numel())))
    assert seen == [torch.float32, torch.bfloat16]
    assert bits[1] == pytest.approx(bits[0], rel=0.05)


@pytest.mark.slow
def test_the_cost_of_a_profile_is_that_of_all_its_stages(project):
    project(tiny=COSTED)
    table = bench.cost(load_profile("tiny"), size=64, tflops=30.0)
    assert table["images"].to_dict() == {
        "task network": 2 * 8,
        "base codec": 3 * 8,
        "decoder finetuning": (10 + 20) * 4,
        "codec zoo": 4 * 8 + 10 * 4,
        "MSE codec": 6 * 8,
        "chain finetuning": 2 * 7 * 4,
        "bridge": 5 * 4,
        "evaluation": (1 + 2 + 2 + 1 + 2 + 1 + 2) * (30 + 40),
    }
    assert (table["GFLOP per image"] > 0).all()
    stage = table.loc["task network"]
    hours = 16 * stage["GFLOP per image"] / 30e3 / 3600
    assert stage["hours at 30 TFLOP/s"] == pytest.approx(hours)
