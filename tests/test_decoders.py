"""Several decoders of the same bits: turned, in a file, from runs; the knob beside its rivals."""

import re

import pandas as pd
import pytest
import skimage.data
import torch
from conftest import picture, tiny_codec
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icmlib import codecs
from icmlib.codecs import Decoders
from icmlib.config import CodecConfig
from icmlib.datasets import deadleaves
from icmlib.evaluate import Evaluation
from icmlib.io import save_weights
from icmlib.metrics import fidelity
from icmlib.studies import knob
from icmlib.studies.trained import load_decoders

CONFIG, IMAGE = CodecConfig(N=8, M=12), picture(40, 56)


def test_every_decoder_reads_the_same_bits(codec, others, decoders):
    bitstream = codec.encode(IMAGE)
    pictures = {name: each.decode(bitstream) for name, each in {"machine": codec, **others}.items()}
    assert decoders.names == list(pictures) and not pictures["machine"].equal(pictures["human"])
    ends = {"0": "machine", 1: "human", "low_impact": "low_impact", 0.0: "machine"}
    turned = {to: decoders.turn(to) for to in (*pictures, *ends)}
    for to, each in turned.items():
        assert each.decode(bitstream).equal(pictures[ends.get(to, to)])
        assert each.encode(IMAGE) == bitstream


def test_between_the_ends_weights_are_interpolated(codec, others, decoders):
    own, human = codec.g_s.state_dict(), others["human"].g_s.state_dict()
    for name, weight in decoders.turn(0.25).g_s.state_dict().items():
        torch.testing.assert_close(weight, 0.75 * own[name] + 0.25 * human[name])


@pytest.mark.parametrize("to", ["people", -0.1, "nan", "2"])
def test_unknown_decoders_are_named(decoders, to):
    known = r"these weights have: machine, human, low_impact, or a number from 0 .* to 1 \(human\)"
    with pytest.raises(ValueError, match=f"unknown decoder '?{to}'?; {known}"):
        decoders.turn(to)
    with pytest.raises(ValueError, match=r"unknown decoder 0\.5; these weights have: machine$"):
        Decoders(decoders.codec, {}).turn(0.5)


def test_a_decoder_of_another_codec_is_refused(codec):
    with pytest.raises(ValueError, match="decoder human is of another codec"):
        Decoders.of(codec, {"human": tiny_codec(seed=1)})


@pytest.fixture
def file(decoders, tmp_path):
    path = tmp_path / "decoders.safetensors"
    decoders.save(path, CONFIG)
    return path


def test_a_file_holds_the_codec_once_and_of_the_others_what_differs(codec, file):
    read = load_decoders(file)
    assert read.names == ["machine", "human", "low_impact"]
    assert len(load_file(file)) == len(codec.state_dict()) + sum(map(len, read.finetuned.values()))


@pytest.mark.parametrize(
    ("header", "name", "change", "message"),
    [
        ({}, "human/0.weight", torch.clone, "KeyError"),
        (None, "human/0.weight", lambda w: w[:3], r"g_s\.0\.weight"),
        (None, "human/0.weight", lambda w: 1.001 * w, "not those that its header states"),
    ],
)
def test_what_is_no_file_of_decoders(file, header, name, change, message):
    with safe_open(file, framework="pt") as old:
        header = old.metadata() if header is None else header
    tensors = load_file(file)
    save_file(tensors | {name: change(tensors[name]).contiguous()}, file, header)
    with pytest.raises(ValueError, match=f"{file} is no whole file of decoders .*{message}"):
        load_decoders(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole file of decoders"):
        load_decoders(file)


@pytest.mark.parametrize("file", ["quick_codec", "photograph_codec"])
def test_shipped_weights_are_those_of_their_card(file):
    """And they do what it says: both finetunings make the picture better than the machine's."""
    path = codecs.SHIPPED.with_name(f"{file}.safetensors")
    read, card = load_decoders(path), path.with_suffix(".md").read_text()
    assert dict(re.findall(r"^\| (\w+) \| `([0-9a-f]{16})` \|$", card, re.M)) == read.fingerprints()
    array = skimage.data.coffee()
    if file == "quick_codec":
        array, _ = deadleaves.scene(0, "test", 2, 128)
    x = torch.from_numpy(array).permute(2, 0, 1) / 255
    bitstream, ssim = read.codec.encode(x), {}
    for name in read.names:
        ssim[name] = float(fidelity.ssim(x[None], read.turn(name).decode(bitstream)[None]))
    assert 0.5 < ssim["machine"] < min(ssim["low_impact"], ssim["human"]) < 0.9


@pytest.fixture
def results(codec, others, project):
    results = project(tiny="codec: {N: 8, M: 12}") / "results" / "tiny"
    save_weights(results / "base_codec" / "base" / "final.safetensors", codec)
    save_weights(results / "finetune" / "mine" / "final.safetensors", others["human"])
    save_weights(results / "chain" / "q1" / "final.safetensors", codec)
    return results


def test_a_run_by_its_name_or_folder(results, decoders, monkeypatch):
    monkeypatch.chdir(results / "finetune" / "mine")
    for name in ("tiny/finetune/mine", results / "finetune" / "mine", "."):
        read = load_decoders(name)
        assert read.names == ["machine", "human"]
        for to in read.names:
            assert read.turn(to).g_s[0].weight.equal(decoders.turn(to).g_s[0].weight)
    assert load_decoders("tiny/base_codec/base").names == ["machine"]


def test_runs_that_hold_no_decoders(results):
    with pytest.raises(FileNotFoundError, match=r"no codec was trained in .*finetune/other"):
        load_decoders("tiny/finetune/other")
    with pytest.raises(FileNotFoundError, match=r"file of decoders .* does not exist"):
        load_decoders("none.safetensors")
    with pytest.raises(ValueError, match=r"q1 is no run of notebooks 02 .* or 03"):
        load_decoders("tiny/chain/q1")


@pytest.mark.parametrize("target, place", [(-0.1, 1.0), (0.3, 0.703125), (0.5, 0.5), (1.0, 0.0)])
def test_the_first_place_that_leaves_no_more_of_the_pattern(monkeypatch, target, place):
    """Of 64, where the pattern falls from 1 to 0 in proportion."""
    monkeypatch.setattr(knob, "evaluate", lambda codec, task, data, progress: codec)
    monkeypatch.setattr(knob, "summarize", lambda at, resamples: {"excess_prms": 1 - at})
    assert knob.same_pattern(lambda at: at, target, None) == place


def evaluation(psnr: list[float], feature: list[float], **more) -> Evaluation:
    columns = {"image_id": range(len(psnr)), "psnr": psnr, "feature": feature, **more}
    return Evaluation(pd.DataFrame(columns), {}, {}, {})


def test_better_is_up_or_down_as_the_measure_has_it():
    """Of the feature distance less is better; an interval around zero decides nothing."""
    reference = evaluation([20.0] * 8, [0.5] * 8, ssim=[0.5] * 8)
    up_and_down = evaluation([21.0] * 8, [0.4] * 8, ssim=[0.4, 0.6] * 4)
    down_and_up = evaluation([19.0] * 8, [0.6] * 8, ssim=[0.5] * 8)
    found = knob.against(reference, {"a": up_and_down, "b": down_and_up}, resamples=200)
    verdicts = found.pivot(index="row", columns="measure", values="verdict")
    verdicts = verdicts[["psnr", "feature", "ssim"]]
    assert verdicts.loc["a"].tolist() == ["holds", "holds", "undecided"]
    # SSIM is the same: an interval that touches zero proves nothing
    assert verdicts.loc["b"].tolist() == ["does not hold", "does not hold", "undecided"]
    first = found.iloc[0]
    assert first["finding"] == "a: PSNR not worse"
    assert first[["value", "low", "high"]].tolist() == [1, 1, 1]


def test_a_blend_mixes_the_pictures(codec, decoders):
    bitstream = codec.encode(picture())
    machine, human = (decoders.turn(to).decode(bitstream) for to in ("machine", "human"))
    mixed = knob.Blend(decoders, 0.25)
    assert mixed.encode(picture()) == bitstream
    assert mixed.decode(bitstream).equal(machine.lerp(human, 0.25)) and not machine.equal(human)
