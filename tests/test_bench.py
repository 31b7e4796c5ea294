"""Speed: both sides of every case do the same work. No test looks at a clock."""

import sys

import pytest
import torch
from torch import nn

from icmlib import bench, codecs, performance, tasks
from icmlib.bench import harness
from icmlib.bench.finetuning import finetuning_step, untrained
from icmlib.config import CodecConfig, FinetuneConfig, TaskConfig, load_profile, replace
from icmlib.losses import rate

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
zoo: {codecs: {m: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 4}}}}
"""


@pytest.mark.parametrize("size", [(64, 128), (80, 72)])
def test_a_step_from_patches_has_the_gradients_of_the_full_decode(size):
    """In float32, and again after the first update."""
    pair = bench.generator_step(*size, patch_size=32, **MODEL)
    for _ in range(2):
        ours, theirs = pair.ours(), pair.theirs()
        assert max(float(g.abs().max()) for g in theirs) > 0
        assert pair.difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"layers": 1, "adversarial": "none"}, {"patch_size": 64}])
def test_finetuning_is_that_of_the_plain_loop(changes):
    """The whole loop, with each row's settings: the same decoder, and not the one it began with."""
    plain = FinetuneConfig(patch_size=32, batch=2, lr=1e-3, precision="float32")
    config = replace(plain, changes)
    pair = finetuning_step(config, 64, **MODEL, steps=2)
    ours, theirs, start = pair.ours(), pair.theirs(), untrained(**MODEL).g_s.parameters()
    assert pair.difference(ours, theirs) < 1e-3 < pair.difference(ours, list(start))


def test_the_cost_of_a_step_does_not_grow_with_the_image():
    """Counted in operations: ours stays, theirs grows with the pixels."""
    counts = {
        side: [
            bench.operations(
                getattr(bench.generator_step(size, size, patch_size=32, **MODEL), side)
            )
            for size in (256, 512)
        ]
        for side in ("ours", "theirs")
    }
    assert counts["ours"][1] <= 1.1 * counts["ours"][0]
    assert counts["theirs"][1] > 3 * counts["theirs"][0]


def test_base_training_is_that_of_compressais_loop(monkeypatch):
    """Step for step the same losses, in float32."""
    monkeypatch.setenv("ICMLIB_PRECISION", "float32")
    pair = bench.base_training(64, steps=3, batch=2, **MODEL)
    assert pair.ours() == pytest.approx(pair.theirs(), rel=1e-4)


def test_bytes_and_images_of_many_images_are_compressais(codec, scenes):
    """One worker process: the order stays, too."""
    for case in (bench.encoding, bench.decoding):
        pair = case(codec, scenes("test"))
        assert pair.difference(pair.ours(), pair.theirs()) == 0


def test_coco_figures_are_pycocotools():
    pair = bench.coco_evaluation(images=12, detections=8)
    ours, theirs = pair.ours(), pair.theirs()
    assert 0 < theirs[0] < 1 and pair.difference(ours, theirs) < 1e-6


def test_measuring_runs_both_sides(codec, scenes):
    pair = bench.evaluation(codec, tasks.create(TaskConfig()), scenes("test"))
    pair.ours()
    assert len(pair.theirs()) == len(scenes("test"))


def test_medians_are_of_turns_after_the_warm_up(monkeypatch):
    """On a clock that the two sides move by known times."""
    now, order = [0.0], []

    def side(name: str, times: list[float]):
        taken = iter(times)

        def work() -> str:
            order.append(name)
            now[0] += next(taken)
            return name

        return work

    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    ours, theirs = side("ours", [9, 9, 1, 2, 4]), side("theirs", [9, 9, 10, 10, 60])
    row = bench.measure(bench.Pair(ours, theirs, lambda a, b: 0.5), repeats=3)
    assert order == ["ours", "theirs"] * 5
    assert row == {
        "ours": 2, "theirs": 10, "ratio": 5, "ratio_low": 5, "ratio_high": 15, "difference": 0.5
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_the_work():
    """The full decode of a larger image needs more; ours does not."""
    what = {"height": 256, "width": 256, "patch_size": 32, **MODEL}
    ours, theirs = (bench.peak_memory(bench.generator_step, s, **what) for s in ("ours", "theirs"))
    assert 0 <= ours < theirs


# --- what makes it fast ------------------------------------------------------------------


def test_memory_layout_is_restored(codec):
    """Inside channels last, after as before, also when the loop fails."""
    weight = codec.g_s[0].weight
    with pytest.raises(RuntimeError), performance.channels_last(codec):
        assert codec.g_s[0].weight.is_contiguous(memory_format=torch.channels_last)
        raise RuntimeError
    assert weight.is_contiguous() and codec.g_s[0].weight.is_contiguous()


def test_layers_that_channels_last_would_crash_are_left_alone():
    """Cheng's encoder begins with a strided 1x1 convolution of 3 channels: the gradient of its
    weights is that of the plain layout."""
    cheng = codecs.create(CodecConfig("cheng2020_anchor", N=8))
    narrow, wide = nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(16, 8, 1, stride=2)
    with performance.channels_last(cheng, narrow, wide):
        assert all(weight.is_contiguous() for weight in (*cheng.parameters(), narrow.weight))
        assert wide(torch.rand(2, 16, 8, 8)).is_contiguous(memory_format=torch.channels_last)
        before = torch.rand(4, 3, 64, 64)
        narrow(before).sum().backward()
    corners = before[..., ::2, ::2].sum((0, 2, 3))
    torch.testing.assert_close(narrow.weight.grad[0, :, 0, 0], corners)


def test_optimisers_are_laid_out_as_the_weights():
    """Also those that come from a checkpoint of the other layout; their values stay."""
    layer = nn.Conv2d(4, 8, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.rand(2, 4, 8, 8)).square().sum().backward()
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[layer.weight].items()}
    for _ in range(2):
        with performance.channels_last(layer, optimizers=(optimizer,)):
            state = optimizer.state[layer.weight]
            for name in ("exp_avg", "exp_avg_sq"):
                assert state[name].stride() == layer.weight.stride() != (36, 9, 3, 1)
                assert torch.equal(state[name], before[name])
            assert torch.equal(state["step"], before["step"])
        state["exp_avg"] = state["exp_avg"].contiguous()


def test_precision_is_what_the_config_says():
    """`float32` is float32, whatever the processor."""
    convolve, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        with performance.autocast(x.device, precision):
            assert convolve(x).dtype == dtype


def test_likelihoods_are_float32_under_autocast(codec):
    """The transforms run in bf16; the rate they are judged by does not."""
    x, seen = torch.rand(1, 3, 64, 64), []
    codec.g_s[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    exact = codec.eval()(x)["likelihoods"]
    with performance.autocast(x.device, "bf16"):
        out = codec.eval()(x)
    assert seen == [torch.float32, torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in out["likelihoods"].values())
    assert out["x_hat"].dtype == torch.float32
    bits = [float(rate(each, x[0, 0].numel())) for each in (exact, out["likelihoods"])]
    assert bits[1] == pytest.approx(bits[0], rel=0.05)


@pytest.mark.slow
def test_the_cost_of_a_profile_is_that_of_all_its_stages(tmp_path, monkeypatch):
    """As many images as its trainings see and its evaluations measure; none is left out."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(COSTED)
    monkeypatch.setenv("ICM_ROOT", str(tmp_path))
    table = bench.cost(load_profile("tiny"), size=64, repeats=1)
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
    assert (table["GFLOP an image"] > 0).all() and (table.drop("evaluation")["GB"] > 0).all()
    most = (
        table["images"] * table["GFLOP an image"] / 15e3 / 3600
    )  # were each as dear as the dearest
    assert table["hours at 15 TFLOP/s"].between(0.5 * most, 1.001 * most).all()
