import copy
import dataclasses
import itertools
import random

import pytest
import torch
from conftest import tiny_codec
from every_training import stopped_after, train_one

from icmlib import device, tasks, training
from icmlib.codecs import cached_latents
from icmlib.codecs.patches import decoder_layers
from icmlib.config import BaseTrainingConfig, ChainConfig, FinetuneConfig, TaskConfig
from icmlib.io import fingerprint
from icmlib.training.base_codec import moved_images, random_crop
from icmlib.training.steps import late_decay, learning_rate
from icmlib.training.task_network import flip

EVERYTHING = ["encoder", "decoder", "entropy", "task"]
CONFIGS = {
    "task": TaskConfig(steps=5, batch=2),
    "base": BaseTrainingConfig(steps=5, batch=2, crop=48),
    "finetune": FinetuneConfig(
        steps=5, batch=2, patches=2, patch_size=32, lambda_feature=0.1, lambda_lattice=0.01
    ),
    "chain": ChainConfig(EVERYTHING, steps=5, batch=2, lr=1e-3, lr_task=1e-3),
}


@pytest.fixture
def train(task, scenes, new_run, tmp_path, monkeypatch):
    """`train(loop, run, **changes)`: a tiny codec and a machine, trained in a run of this name."""
    monkeypatch.setattr(training.journal, "CHECKPOINT_EVERY", 2)

    def train(loop: str, run: str, machine=None, architecture="scale_hyperprior_s8", **changes):
        data, config = scenes("train"), dataclasses.replace(CONFIGS[loop], **changes)
        codec, machine = tiny_codec(name=architecture), machine or copy.deepcopy(task)
        train_one(loop, codec, machine, data, config, new_run(run), tmp_path / "latents")
        return codec, machine

    return train


@pytest.mark.parametrize(
    ("loop", "changes"),
    [
        ("task", {}),
        ("base", {}),
        ("finetune", {}),
        ("finetune", {"adversarial": "none", "lambda_task": 0.5}),
        ("chain", {}),
    ],
)
def test_stopped_and_resumed(train, new_run, loop, changes):
    """Stopped at step 3, resumed from step 1: the same bits, the same log."""

    def trained(run: str) -> list[str]:
        machine = tasks.create(TaskConfig()) if loop == "task" else None
        return [fingerprint(each) for each in train(loop, run, machine, **changes)]

    def left(run: str) -> list[bytes]:
        folder = new_run(run).folder
        return [each.read_bytes() for each in (folder / "log.csv", *folder.glob("*.safetensors"))]

    whole = trained("whole")
    with stopped_after(3):
        trained("stopped")
    assert len(new_run("stopped").logged()) == 4 and len(left("stopped")) == 1
    assert trained("stopped") == whole
    assert left("stopped") == left("whole") and len(new_run("whole").logged()) == 5


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [("scale_hyperprior_s8", 1), ("mbt2018", 2), ("cheng2020_anchor", 2)],
)
def test_finetuning_changes_only_the_first_decoder_layers(train, scenes, architecture, layers):
    """Every parameter of those, and bit for bit nothing else: the same files, other pictures."""
    before = tiny_codec(name=architecture)
    after, _ = train("finetune", "run", architecture=architecture, steps=2, layers=layers)
    first = torch.nn.ModuleList(decoder_layers(after.g_s)[:layers])
    trained = {n for n, p in after.named_parameters() if any(p is q for q in first.parameters())}
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert trained and all("reparam" in name for name in changed ^ trained)
    assert not any(p.requires_grad for p in after.parameters())
    x = scenes("test").image(0)
    bitstream = before.encode(x)
    assert bytes(after.encode(x)) == bytes(bitstream)
    assert not torch.equal(after.decode(bitstream), before.decode(bitstream))


@pytest.mark.parametrize("parts", [["encoder", "task"], ["decoder"], ["entropy"], EVERYTHING])
def test_chain_trains_the_named_parts_alone(train, task, scenes, parts):
    codec, machine = train("chain", "run", parts=parts, lr=1e-2)
    before = tiny_codec()
    for part in ("encoder", "decoder", "entropy"):
        one, other = (torch.nn.ModuleList(each.parts[part]) for each in (before, codec))
        if part not in parts:
            assert fingerprint(one) == fingerprint(other)
        for (name, old), new in zip(one.named_parameters(), other.parameters()):
            assert torch.equal(old, new) != (part in parts), name
    x = scenes("test").image(0)
    bits, same_bits = codec.encode(x), bytes(before.encode(x))
    assert parts != ["decoder"] or bytes(bits) == same_bits
    if "encoder" in parts and "decoder" not in parts:  # a decoder in use reads what it writes
        assert bytes(bits) != same_bits and torch.equal(before.decode(bits), codec.decode(bits))
    same = [torch.equal(old, new) for old, new in zip(task.parameters(), machine.parameters())]
    assert not any(same) if "task" in parts else all(same)
    assert not any(p.requires_grad for net in (codec, machine) for p in net.parameters())


def test_chain_terms_of_mixed_sizes(codec, task):
    """Bits over all pixels, whatever the images' sizes; the machine sees them in their order."""
    images = [torch.rand(3, *size) for size in ((32, 48), (64, 64), (32, 48))]
    seen = []
    task.loss = lambda decoded, targets: seen.extend(decoded) or {"a": decoded[0].sum()}
    with torch.no_grad():
        terms, *alone = [
            training.chain.chain_terms(codec, task, xs, [{}] * len(xs), CONFIGS["chain"])
            for xs in (images, *([x] for x in images))
        ]
    pixels = [x[0].numel() for x in images]
    expected = sum(each["rate"] * n for each, n in zip(alone, pixels)) / sum(pixels)
    assert float(terms["rate"]) == pytest.approx(float(expected), rel=1e-5)
    assert [x.shape for x in seen[:3]] == [x.shape for x in images]
    torch.testing.assert_close(seen[2], seen[5], atol=1e-5, rtol=0)  # another batch, other kernels


def test_the_machine_is_not_trained(train, task):
    before = fingerprint(task)
    train("finetune", "a", task, lambda_task=0.5)
    train("base", "b", task)
    assert fingerprint(task) == before and all(p.grad is None for p in task.parameters())


@pytest.mark.parametrize("adversarial", ["hinge", "none"])
def test_finetuning_lowers_the_error(train, new_run, adversarial):
    train("finetune", "run", steps=15, batch=3, patch_size=32, lr=1e-2, adversarial=adversarial)
    log = new_run("run").logged()
    assert log["mse"].tail(5).mean() < 0.8 * log["mse"].head(3).mean()
    assert ("discriminator" in log) == (adversarial != "none")


@pytest.mark.parametrize("loop", CONFIGS)
def test_the_seed_decides_and_the_global_generator_neither_does_nor_moves(train, loop):
    made = [[fingerprint(each) for each in train(loop, "other", seed=9)]]
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        made.append([fingerprint(each) for each in train(loop, f"run {seed}")])
        assert torch.equal(torch.get_rng_state(), state)
    assert made[0] != made[1] == made[2]


@pytest.mark.parametrize(
    ("loop", "what", "term"), [("task", "loss", "noisy"), ("finetune", "features", "feature")]
)
def test_nan_names_the_step_and_the_term(train, task, new_run, loop, what, term):
    made = getattr(task, what)
    setattr(task, what, lambda *a: {k: v * float("nan") for k, v in made(*a).items()})
    with pytest.raises(FloatingPointError, match=rf"step 0: .*'{term}': nan.*lower the learning"):
        train(loop, "run", task)
    assert not list(new_run("run").folder.glob("*.safetensors"))


def test_every_epoch_sees_every_item_once():
    drawn = [i for step in range(20) for i in training.batch_indices(step, 10, 3, seed=1)]
    epochs = [drawn[k : k + 10] for k in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert training.batch_indices(7, 10, 3, seed=1) == drawn[21:24]
    assert training.batch_indices(7, 10, 3, seed=2) != drawn[21:24]


class FirstOfTwo:
    num_processes, process_index, device, is_main_process = 2, 0, torch.device("cpu"), True


def test_each_process_has_its_part_of_a_batch(monkeypatch):
    config = ChainConfig(steps=3, batch=4)
    whole = [[i for i, _ in items] for _, items in training.steps.batches(max, 10, config, 1, "")]
    monkeypatch.setattr(device, "state", FirstOfTwo)
    mine = [[i for i, _ in items] for _, items in training.steps.batches(max, 10, config, 1, "")]
    assert mine == [batch[::2] for batch in whole] and len(whole) == 2
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        training.steps.batches(max, 10, ChainConfig(batch=3), 0, "")


def test_flip_moves_image_boxes_and_masks_together():
    """After any flip the mask still fills its box, and the picture its mask."""
    seen = set()
    for seed in range(30):
        image, masks = torch.zeros(3, 6, 8), torch.zeros(1, 6, 8, dtype=torch.uint8)
        image[:, 1:3, 2:7], masks[:, 1:3, 2:7] = 1, 1
        target = {"boxes": torch.tensor([[2.0, 1, 7, 3]]), "masks": masks}
        flipped, new = flip(image, target, random.Random(seed))
        left, top, right, bottom = (int(v) for v in new["boxes"][0])
        assert flipped[0].sum() == flipped[0, top:bottom, left:right].sum() == 10
        assert torch.equal(new["masks"][0], flipped[0].byte())
        assert target["boxes"].tolist() == [[2, 1, 7, 3]]
        seen.add((left, top))
    assert seen == {(2, 1), (1, 1), (2, 3), (1, 3)}


def test_random_crops_are_of_every_place_and_flip():
    image = torch.arange(3 * 5 * 6).reshape(3, 5, 6).float()
    windows = {}
    for top, left in itertools.product(range(2), range(3)):
        window = image[:, top : top + 4, left : left + 4]
        for axes in ((), (-1,), (-2,), (-1, -2)):
            windows[fingerprint({"": window.flip(axes)})] = (top, left, axes)
    rng = random.Random(0)
    crops = [fingerprint({"": random_crop(image, 4, rng)}) for _ in range(300)]
    assert set(crops) == set(windows) and len(windows) == 24


def test_random_crop_of_a_smaller_image_repeats_its_far_edges():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(3, 2, 2)
    expected = torch.tensor([[1.0, 2, 2], [3, 4, 4], [3, 4, 4]])
    crop = random_crop(image, 3, random.Random(0))[0]
    flips = [expected.flip(axes) for axes in ((), (-1,), (-2,), (-1, -2))]
    assert any(torch.equal(crop, flipped) for flipped in flips)


def test_random_crops_of_smaller_images():
    """At a scale between a half and 1 of a ramp whose slope tells it, and inside the image."""
    ramp = torch.linspace(0, 1, 65).expand(3, 65, 65)
    crops = [random_crop(ramp, 32, random.Random(seed), scale=0.5) for seed in range(100)]
    slopes = [64 * (crop[0, 16, 20] - crop[0, 16, 12]).abs().item() / 8 for crop in crops]
    assert {crop.shape for crop in crops} == {(3, 32, 32)}
    assert min(slopes) < 1.1 and max(slopes) > 1.9 and 0.99 < min(slopes) < max(slopes) < 2.04
    assert random_crop(ramp, 65, random.Random(0), scale=0.5).shape == (3, 65, 65)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 0)])
def test_images_move_and_repeat_their_first_edge(place):
    x, (down, right) = torch.arange(48.0).reshape(1, 3, 4, 4), place
    new = moved_images(x, torch.tensor(place))
    assert torch.equal(new[..., down:, right:], x[..., : 4 - down, : 4 - right])
    edge = x[..., :1, : 4 - right].expand(1, 3, down + 1, -1)
    assert torch.equal(new[..., : down + 1, right:], edge)


def test_decoded_images_move_with_their_targets():
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[:, 4:8, 5:12] = 1
    target = {"boxes": torch.tensor([[5.0, 4, 12, 8]]), "masks": mask}
    places = set()
    for seed in range(20):
        torch.manual_seed(seed)
        images = {0: mask.float().expand(3, 16, 16)}
        images, (new,) = training.chain.moved_with_targets(images, [target], 7)
        assert torch.equal(images[0][0], new["masks"][0].float())
        left, top, right, bottom = new["boxes"][0].int().tolist()
        assert new["masks"][0, top:bottom, left:right].all() and new["masks"].sum() == 28
        places.add((left, top))
    assert len(places) > 10 and torch.equal(target["boxes"], torch.tensor([[5.0, 4, 12, 8]]))


@pytest.mark.parametrize(("patch_size", "count"), [(24, 3), (128, 1)])
def test_patches_and_latents_belong_together(scenes, tmp_path, patch_size, count):
    """A patch as large as the image is taken once: copies would teach nothing."""
    dataset, config = scenes("train"), FinetuneConfig(patches=3, patch_size=patch_size)
    latents = cached_latents(tiny_codec(), dataset, tmp_path)
    batch = [(i, dataset.image(i)) for i in (4, 1)]
    x, y_hat, corners = training.sample_patches(batch, latents, config, step=0)
    side = min(patch_size, 64)
    places = [([4, 1][k // count], *corner) for k, corner in enumerate(corners.tolist())]
    assert x.shape == (2 * count, 3, side, side) and len({*places}) == len(y_hat) == 2 * count
    for original, y, (index, top, left) in zip(x, y_hat, places, strict=True):
        assert original.equal(dataset.image(index)[:, top : top + side, left : left + side])
        assert y.equal(latents[index].float())


def test_patches_see_every_border(scenes, tmp_path):
    """Patches of 16 px in images of 64: an eighth of them at each border, not one in 49."""
    dataset, config = scenes("train"), FinetuneConfig(patches=3, patch_size=16)
    latents = cached_latents(tiny_codec(), dataset, tmp_path)
    batch = [(0, dataset.image(0))]
    drawn = [training.sample_patches(batch, latents, config, step)[2] for step in range(400)]
    corners = torch.cat(drawn)
    at_border = torch.stack([corners == 0, corners == 48]).double().mean(1)
    assert 0.09 < at_border.min() and at_border.max() < 0.16


def test_schedules():
    """Cosine: 1, 1/2, 0. Late decay: 1 until half way, then to a hundredth, without a jump."""
    cosine = [learning_rate("cosine", p) for p in (0, 0.5, 1)]
    assert cosine == pytest.approx([1, 0.5, 0]) and learning_rate("constant", 0.9) == 1
    late = [late_decay(p) for p in (0, 0.49, 0.5, 0.75, 1)]
    assert late == pytest.approx([1, 1, 1, 0.505, 0.01])
