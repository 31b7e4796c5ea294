"""Finetuning of the chain: image -> codec -> task network, by task loss + beta * rate."""

import torch
from torch import nn
from torch.utils.data import Dataset

from icmlib import losses, performance, processes
from icmlib.codecs import LearnedCodec
from icmlib.config import ChainConfig
from icmlib.runs import Run
from icmlib.tasks import TaskNetwork
from icmlib.training.steps import Shards, checkpoint_due, learning_rate, progress
from icmlib.training.task_network import flip


def finetune_chain(
    codec: LearnedCodec,
    task: TaskNetwork,
    dataset: Dataset,
    config: ChainConfig,
    run: Run,
) -> None:
    """Finetune codec and task network together, or parts of them (Chamain et al. 2020).

    What `config.parts` does not name stays as it is, bit for bit: without "encoder" and "entropy"
    the bits stay, without "decoder" and "entropy" a decoder that is in use reads the new ones.
    Weights of both go to `run`: `final.safetensors` is the codec, `task.safetensors` the machine.
    """
    codec.to(processes.device())
    task.to(processes.device())
    trained = {"codec": trained_weights(codec, config.parts), "task": []}
    task.requires_grad_("task" in config.parts)
    if "task" in config.parts:
        trained["task"] = [p for p in task.parameters() if p.requires_grad]
    changes_bits = not {"encoder", "entropy"}.isdisjoint(config.parts)
    groups = [
        {"params": trained["codec"], "lr": config.lr},
        {"params": trained["task"], "lr": config.lr_task},
    ]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], fused=True)
    quantiles = [p for name, p in codec.named_parameters() if name.endswith("quantiles")]
    aux_optimizer = torch.optim.Adam(quantiles, config.aux_lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(config.schedule, step / config.steps)
    )
    state = {
        "codec": codec,
        "task": task,
        "optimizer": optimizer,
        "aux": aux_optimizer,
        "schedule": schedule,
    }
    start = run.resume(**state)
    shards = Shards(config, len(dataset), codec, task)
    items = shards.reader(dataset.__getitem__)

    def terms_of(part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, targets = zip(*(flip(*item) for item in items(step, part)))
        terms = chain_terms(codec, task, images, targets, config.precision)
        return terms["task"] + config.beta * terms["rate"], terms

    with performance.channels_last(codec, task, optimizers=(optimizer,)):
        for step in progress(start, config.steps, "chain"):
            codec.train(changes_bits)  # noise for rounding, where what is rounded is trained
            terms = shards.backward(step, [*trained["codec"], *trained["task"]], terms_of)
            for weights in trained.values():  # each by its own norm: one must not slow the other
                nn.utils.clip_grad_norm_(weights, config.clip)
            optimizer.step()
            schedule.step()
            if "entropy" in config.parts:  # the tables' quantiles follow the latents
                aux_loss = codec.model.aux_loss()
                aux_optimizer.zero_grad()
                aux_loss.backward()
                aux_optimizer.step()
            run.log(step, terms)
            if checkpoint_due(step, config.steps):
                run.checkpoint(step + 1, **state)
    for module in (codec, task):
        module.eval().requires_grad_(False)
    if "entropy" in config.parts:
        codec.update()
    run.save_weights(codec)
    run.save_weights(task, "task")


def trained_weights(codec: LearnedCodec, parts: list[str]) -> list[nn.Parameter]:
    """The weights of these parts of the codec, and no others, ready to be trained; quantiles are
    left to the optimiser of their own."""
    codec.requires_grad_(False)
    weights = []
    for part, modules in codec.parts.items():
        for name, weight in (each for module in modules for each in module.named_parameters()):
            weight.requires_grad_(part in parts)
            if part in parts and not name.endswith("quantiles"):
                weights.append(weight)
    return weights


def chain_terms(
    codec: LearnedCodec,
    task: TaskNetwork,
    images: list[torch.Tensor],
    targets: list[dict],
    precision: str = "float32",
) -> dict[str, torch.Tensor]:
    """The terms of the chain's loss on images (3, H, W) of any sizes: task, the sum of the task
    network's own losses on the decoded images, and rate, in bits per pixel of all of them."""
    groups: dict[tuple, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    decoded: dict[int, torch.Tensor] = {}
    bits = 0.0
    for indices in groups.values():  # images of one size go through the codec together
        x = torch.stack([images[i] for i in indices]).to(codec.device)
        with performance.autocast(x.device, precision):
            out = codec(x)
        bits = bits + losses.rate(out["likelihoods"], 1)
        decoded |= dict(zip(indices, out["x_hat"].clamp(0, 1)))
    pixels = sum(image.shape[-2] * image.shape[-1] for image in images)
    found = task.loss([decoded[i] for i in range(len(images))], list(targets))
    return {"task": sum(found.values()), "rate": bits / pixels}
