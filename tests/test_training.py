"""The loops: a stopped run ends where an undisturbed one does; frozen parts stay frozen."""

import contextlib
import copy
import dataclasses
import itertools
import random

import pytest
import torch

from icmlib import tasks, training
from icmlib.codecs import cached_latents
from icmlib.codecs.patches import decoder_layers
from icmlib.config import BaseTrainingConfig, ChainConfig, FinetuneConfig, TaskConfig
from icmlib.io import fingerprint
from icmlib.training import Journal

TASK = TaskConfig(steps=5, batch=2)
BASE = BaseTrainingConfig(steps=5, batch=2, crop=48)
FINETUNE = FinetuneConfig(
    steps=5, batch=2, patches=2, patch_size=24, lambda_feature=0.1, lambda_lattice=0.01
)


ZOO = [
    "bmshj2018_factorized",
    "bmshj2018_hyperprior",
    "mbt2018_mean",
    "mbt2018",
    "cheng2020_anchor",
]
EVERYTHING = ["encoder", "decoder", "entropy", "task"]
CHAIN = ChainConfig(EVERYTHING, steps=5, batch=2, lr=1e-3, lr_task=1e-3)


class Stopped(RuntimeError):
    pass


@pytest.fixture(autouse=True)
def checkpoint_every_second_step(monkeypatch):
    monkeypatch.setattr(training.journal, "CHECKPOINT_EVERY", 2)


@contextlib.contextmanager
def stopped_after(last: int):
    """Inside, a run ends right after it has logged that step."""
    log = Journal.log

    def log_and_stop(self, step, terms):
        log(self, step, terms)
        if step == last:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Journal, "log", log_and_stop)
        yield


@pytest.fixture
def train_task(scenes, new_run):
    """Train the toy machine in a run folder of this name; returns its weights' fingerprint."""

    def train(name: str, make, config=TASK) -> str:
        network = make()
        training.train_task_network(network, scenes("train"), config, new_run(name))
        return fingerprint(network)

    return train


@pytest.fixture
def train_base(make_codec, task, scenes, new_run):
    def train(name: str, config=BASE, machine=None) -> str:
        codec = make_codec(seed=2)
        training.train_base_codec(codec, machine or task, scenes("train"), config, new_run(name))
        return fingerprint(codec)

    return train


@pytest.fixture
def finetune(make_codec, task, scenes, new_run, tmp_path):
    """Finetune the tiny codec, or one of another architecture; returns it."""

    def train(name: str, config=FINETUNE, machine=None, architecture="scale_hyperprior_s8"):
        codec = make_codec(name=architecture)
        latents = cached_latents(codec, scenes("train"), tmp_path / "latents")
        training.finetune_decoder(
            codec, latents, machine or task, scenes("train"), config, new_run(name)
        )
        return codec

    return train


@pytest.fixture
def finetune_chain(make_codec, task, scenes, new_run):
    """Finetune parts of the tiny codec and the toy machine; returns both."""

    def train(name: str, config=CHAIN):
        codec, machine = make_codec(), copy.deepcopy(task)
        training.finetune_chain(codec, machine, scenes("train"), config, new_run(name))
        return codec, machine

    return train


# --- stopped and resumed -----------------------------------------------------------------


def assert_resumes(train, new_run) -> None:
    """Stopped at step 3, resumed from the checkpoint after step 1: the same weights, to the bit,
    and the same log as without the stop."""
    whole = train("whole")
    with stopped_after(3):
        train("stopped")
    assert len(new_run("stopped").logged()) == 4
    assert not new_run("stopped").path("final.safetensors").exists()
    assert train("stopped") == whole
    logs = [new_run(name).path("log.csv").read_text() for name in ("whole", "stopped")]
    assert logs[0] == logs[1] and len(logs[0].split()) == 6
    weights = [new_run(name).path("final.safetensors") for name in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_task_network_resumes(train_task, new_run):
    """The real Mask R-CNN: its samplers draw from the global generator."""

    def train(name):
        return train_task(name, lambda: tasks.create(TaskConfig()))

    assert_resumes(train, new_run)


def test_base_codec_resumes(train_base, new_run):
    assert_resumes(train_base, new_run)


@pytest.mark.parametrize("changes", [{}, {"adversarial": "none", "lambda_task": 0.5}])
def test_finetuning_resumes(finetune, new_run, changes):
    """With the discriminator's state and its optimiser's."""
    config = dataclasses.replace(FINETUNE, **changes)

    def train(name):
        return fingerprint(finetune(name, config))

    assert_resumes(train, new_run)


def test_chain_resumes(finetune_chain, new_run):
    """With both optimisers, and both networks' weights."""

    def train(name):
        return tuple(map(fingerprint, finetune_chain(name)))

    assert_resumes(train, new_run)
    machines = [new_run(name).path("task.safetensors") for name in ("whole", "stopped")]
    assert machines[0].read_bytes() == machines[1].read_bytes()


def laid_out(state, layout: torch.memory_format):
    """The state of a checkpoint, its maps and kernels in that layout."""
    if isinstance(state, dict):
        return {key: laid_out(value, layout) for key, value in state.items()}
    if torch.is_tensor(state) and state.dim() == 4:
        return state.contiguous(memory_format=layout)
    return state


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("loop", ["base", "chain"])
def test_checkpoint_of_any_memory_layout_resumes(train_base, finetune_chain, new_run, loop, layout):
    """A run may go on where the loop lays out its weights otherwise: on another device."""
    train = {
        "base": train_base,
        "chain": lambda name: tuple(map(fingerprint, finetune_chain(name))),
    }[loop]
    whole = train("whole")
    with stopped_after(3):
        train("stopped")
    path = new_run("stopped").path("last.pt")
    torch.save(laid_out(torch.load(path, weights_only=True), layout), path)
    assert train("stopped") == whole


def test_finished_run_is_not_trained_again(train_base, new_run, monkeypatch):
    first = train_base("run")
    monkeypatch.setattr(Journal, "log", lambda *_: pytest.fail("trained again"))
    assert train_base("run") == first


def test_seed_decides(train_base):
    """Another seed, other weights; the same one, the same."""
    first = train_base("a")
    assert train_base("b") == first
    assert train_base("c", dataclasses.replace(BASE, seed=1)) != first


# --- what is trained, and what is not ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers"),
    [*(("scale_hyperprior_s8", layers) for layers in (1, 2, 3)), *((name, 2) for name in ZOO)],
)
def test_finetuning_changes_only_the_first_decoder_layers(
    finetune, make_codec, scenes, name, layers
):
    """Every parameter of those, and bit for bit nothing else, whatever the architecture: the same
    files, and other pictures out of them."""
    before = make_codec(name=name)
    config = dataclasses.replace(FINETUNE, steps=2, layers=layers)
    after = finetune("run", config, architecture=name)
    trained = {
        name
        for layer in decoder_layers(after.g_s)[:layers]
        for name, value in after.named_parameters()
        if any(value is p for p in layer.parameters())
    }
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    constant = {name for name in changed ^ trained if "reparam" not in name}
    assert trained and not constant
    assert all(name.startswith("model.g_s.") for name in changed)
    assert not any(p.requires_grad for p in after.parameters())
    x = scenes("test").image(0)
    bitstream = before.encode(x)
    assert bytes(after.encode(x)) == bytes(bitstream)
    assert not torch.equal(after.decode(bitstream), before.decode(bitstream))


@pytest.mark.parametrize(
    "parts", [["task"], ["encoder"], ["decoder"], ["entropy"], ["encoder", "task"], EVERYTHING]
)
def test_chain_trains_the_named_parts_alone(finetune_chain, make_codec, task, parts):
    """All of their weights move, and bit for bit nothing else; the entropy model's tables follow
    its weights."""
    codec, machine = finetune_chain("run", dataclasses.replace(CHAIN, parts=parts))
    before = make_codec()
    for part in ("encoder", "decoder", "entropy"):
        one, other = (torch.nn.ModuleList(each.parts[part]) for each in (before, codec))
        if part not in parts:
            assert fingerprint(one) == fingerprint(other)
        for (name, old), new in zip(one.named_parameters(), other.parameters()):
            assert torch.equal(old, new) != (part in parts), name
    same = [torch.equal(old, new) for old, new in zip(task.parameters(), machine.parameters())]
    assert not any(same) if "task" in parts else all(same)
    assert not any(p.requires_grad for net in (codec, machine) for p in net.parameters())


def test_a_decoder_in_use_reads_what_a_finetuned_encoder_writes(finetune_chain, make_codec, scenes):
    """Trained alone, the encoder still speaks the language of the decoder that nobody touched."""
    codec, _ = finetune_chain("run", dataclasses.replace(CHAIN, parts=["encoder"], lr=1e-2))
    before, x = make_codec(), scenes("test").image(0)
    bits = codec.encode(x)
    assert bytes(bits) != bytes(before.encode(x))
    assert torch.equal(before.decode(bits), codec.decode(bits))


@pytest.mark.parametrize("parts", [["task"], ["decoder"]])
def test_chain_without_the_encoder_leaves_the_bits(finetune_chain, make_codec, scenes, parts):
    codec, _ = finetune_chain("run", dataclasses.replace(CHAIN, parts=parts))
    x = scenes("test").image(0)
    assert bytes(codec.encode(x)) == bytes(make_codec().encode(x))


def test_chain_lowers_its_loss(finetune_chain, new_run):
    """A higher price of bits gives fewer of them."""
    config = dataclasses.replace(CHAIN, steps=16, lr=1e-2, beta=0.0)
    finetune_chain("cheap", config)
    finetune_chain("dear", dataclasses.replace(config, beta=10.0))
    rates = {name: new_run(name).logged()["rate"].tail(3).mean() for name in ("cheap", "dear")}
    assert rates["dear"] < 0.9 * rates["cheap"]


def test_chain_terms_of_mixed_sizes(codec, task):
    """Bits over all pixels, whatever the images' sizes; the machine sees them in their order."""
    images = [torch.rand(3, *size) for size in ((32, 48), (64, 64), (32, 48))]
    seen = []
    task.loss = lambda decoded, targets: seen.extend(decoded) or {"a": decoded[0].sum()}
    with torch.no_grad():
        terms = training.chain.chain_terms(codec, task, images, [{}] * 3)
        alone = [training.chain.chain_terms(codec, task, [x], [{}])["rate"] for x in images]
    pixels = [x[0].numel() for x in images]
    expected = sum(r * n for r, n in zip(alone, pixels)) / sum(pixels)
    assert float(terms["rate"]) == pytest.approx(float(expected), rel=1e-5)
    assert [tuple(x.shape) for x in seen[:3]] == [tuple(x.shape) for x in images]
    assert torch.equal(seen[2], seen[5])


def test_the_machine_is_not_trained(finetune, train_base, task):
    before = fingerprint(task)
    finetune("a", dataclasses.replace(FINETUNE, lambda_task=0.5), machine=task)
    train_base("b", machine=task)
    assert fingerprint(task) == before
    assert all(p.grad is None for p in task.parameters())


def test_base_training_reaches_every_part(train_base, make_codec, new_run, task, scenes):
    """Analysis, synthesis, hyperprior and quantiles all move; the tables are made at the end."""
    before = make_codec(seed=2).state_dict()
    codec = make_codec(seed=2)
    training.train_base_codec(codec, task, scenes("train"), BASE, new_run())
    for name, parameter in codec.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert not torch.equal(
        codec.model.entropy_bottleneck._quantized_cdf,
        before["model.entropy_bottleneck._quantized_cdf"],
    )
    assert codec.fingerprint != make_codec(seed=2).fingerprint


@pytest.mark.parametrize("adversarial", ["hinge", "least_squares", "cross_entropy", "none"])
def test_finetuning_lowers_the_error(finetune, new_run, adversarial):
    """On the same few scenes, at a high learning rate."""
    config = FinetuneConfig(
        steps=15, batch=3, patches=2, patch_size=32, lr=1e-2, adversarial=adversarial
    )
    finetune("run", config)
    log = new_run("run").logged()
    assert log["mse"].tail(5).mean() < 0.8 * log["mse"].head(3).mean()
    assert ("discriminator" in log) == (adversarial != "none")


# --- the global generator ----------------------------------------------------------------


def test_loops_leave_the_global_generator_alone(train_task, train_base, finetune, task):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    train_task("a", lambda: task)
    train_base("b")
    finetune("c", dataclasses.replace(FINETUNE, lambda_task=0.5))
    assert torch.equal(torch.get_rng_state(), state)


def test_global_generator_does_not_decide(train_task, train_base, finetune, task):
    """Neither does what was drawn before."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append((train_base(f"b{seed}"), fingerprint(finetune(f"c{seed}"))))
    assert results[0] == results[1]


# --- errors ------------------------------------------------------------------------------


def poisoned(task, name: str):
    """A machine whose features or losses are not numbers."""
    original = getattr(task, name)
    setattr(task, name, lambda *a: {k: v * float("nan") for k, v in original(*a).items()})
    return task


def test_nan_names_the_step_and_the_term(train_task, train_base, finetune, task, make_codec):
    """And the weights are not ruined by it."""
    with pytest.raises(FloatingPointError, match=r"step 0: .*'noisy': nan.*lower the learning"):
        train_task("a", lambda: poisoned(task, "loss"))
    task = poisoned(task, "features")
    with pytest.raises(FloatingPointError, match=r"step 0: .*'feature': nan"):
        train_base("b", machine=task)
    with pytest.raises(FloatingPointError, match=r"step 0: .*'feature': nan"):
        finetune("c", machine=task)


def test_unknown_adversarial_loss_or_schedule():
    with pytest.raises(ValueError, match=r"adversarial\n.*'hinge', 'least_squares'.*'wgan'"):
        dataclasses.replace(FINETUNE, adversarial="wgan")
    with pytest.raises(ValueError, match=r"schedule\n.*'cosine' or 'constant'.*'linear'"):
        dataclasses.replace(FINETUNE, schedule="linear")


# --- the parts ---------------------------------------------------------------------------


def test_every_epoch_sees_every_item_once():
    """Batches across the end of an epoch; a new order each epoch; known from the step alone."""
    drawn = [i for step in range(20) for i in training.batch_indices(step, 10, 3, seed=1)]
    epochs = [drawn[k : k + 10] for k in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert training.batch_indices(7, 10, 3, seed=1) == drawn[21:24]
    assert training.batch_indices(7, 10, 3, seed=2) != drawn[21:24]


def test_flip_moves_image_boxes_and_masks_together():
    """After any flip the mask still fills its box, and the picture its mask."""
    seen = set()
    for seed in range(30):
        image, masks = torch.zeros(3, 6, 8), torch.zeros(1, 6, 8, dtype=torch.uint8)
        image[:, 1:3, 2:7], masks[:, 1:3, 2:7] = 1, 1
        target = {"boxes": torch.tensor([[2.0, 1, 7, 3]]), "masks": masks}
        flipped, new = training.flip(image, target, random.Random(seed))
        left, top, right, bottom = (int(v) for v in new["boxes"][0])
        assert flipped[0].sum() == flipped[0, top:bottom, left:right].sum() == 10
        assert torch.equal(new["masks"][0], flipped[0].byte())
        assert target["boxes"].tolist() == [[2, 1, 7, 3]]
        seen.add((left, top))
    assert seen == {(2, 1), (1, 1), (2, 3), (1, 3)}


def test_random_crops_are_of_every_place_and_flip():
    """Each a window of the image as it is, flipped or not; every one of them comes."""
    image = torch.arange(3 * 5 * 6).reshape(3, 5, 6).float()
    windows = {}
    for top, left in itertools.product(range(2), range(3)):
        window = image[:, top : top + 4, left : left + 4]
        for axes in ((), (-1,), (-2,), (-1, -2)):
            windows[fingerprint({"": window.flip(axes)})] = (top, left, axes)
    rng = random.Random(0)
    crops = [fingerprint({"": training.random_crop(image, 4, rng)}) for _ in range(300)]
    assert set(crops) == set(windows) and len(windows) == 24


def test_random_crop_of_a_smaller_image_repeats_its_far_edges():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(3, 2, 2)
    expected = torch.tensor([[1.0, 2, 2], [3, 4, 4], [3, 4, 4]])
    crop = training.random_crop(image, 3, random.Random(0))[0]
    flips = [expected.flip(axes) for axes in ((), (-1,), (-2,), (-1, -2))]
    assert any(torch.equal(crop, flipped) for flipped in flips)


def test_patches_and_latents_belong_together(make_codec, scenes, tmp_path):
    """Each sampled original is what its image has at that corner, beside that image's y_hat."""
    dataset, codec = scenes("train"), make_codec()
    latents = cached_latents(codec, dataset, tmp_path)
    config = FinetuneConfig(patches=3, patch_size=24)
    batch = [(i, dataset.image(i)) for i in (4, 1)]
    x, y_hat, corners = training.sample_patches(batch, latents, config, step=0)
    assert x.shape == (6, 3, 24, 24) and corners.shape == (6, 2) and len(y_hat) == 6
    assert len({tuple(corner) for corner in corners.tolist()}) == 6
    for k, (top, left) in enumerate(corners.tolist()):
        index = [4, 1][k // 3]
        assert torch.equal(x[k], dataset.image(index)[:, top : top + 24, left : left + 24])
        assert torch.equal(y_hat[k], latents[index].float())


def test_a_patch_as_large_as_the_image_is_taken_once(make_codec, scenes, tmp_path):
    """Three copies of it would cost three times as much and teach nothing more."""
    dataset = scenes("train")
    latents = cached_latents(make_codec(), dataset, tmp_path)
    config = FinetuneConfig(patches=3, patch_size=128)
    batch = [(i, dataset.image(i)) for i in (4, 1)]
    x, y_hat, corners = training.sample_patches(batch, latents, config, step=0)
    assert torch.equal(x, torch.stack([dataset.image(4), dataset.image(1)]))
    assert corners.tolist() == [[0, 0], [0, 0]] and len(y_hat) == 2


def test_schedules():
    """Cosine: 1, 1/2, 0. Late decay: 1 until half way, then to a hundredth, without a jump."""
    cosine = [training.learning_rate("cosine", p) for p in (0, 0.5, 1)]
    assert cosine == pytest.approx([1, 0.5, 0]) and training.learning_rate("constant", 0.9) == 1
    late = [training.late_decay(p) for p in (0, 0.49, 0.5, 0.75, 1)]
    assert late == pytest.approx([1, 1, 1, 0.505, 0.01])
