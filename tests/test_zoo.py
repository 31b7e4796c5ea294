"""CompressAI's weights by quality: files as they are published, and never unpickled."""

import hashlib
import re
from collections import OrderedDict
from functools import partial

import pytest
import torch
from compressai.zoo import image as zoo
from conftest import picture

from icmlib import codecs
from icmlib.config import CodecConfig
from icmlib.downloads import WeightsUnavailable, read_state

CONFIG = CodecConfig("mbt2018_mean", N=64, M=96)
TINY = CodecConfig("mbt2018_mean", N=8, M=12)


def test_published_weights_make_the_same_bits(publish, monkeypatch, new_run):
    """Named as in CompressAI 1.1, from DataParallel, with old tables; with their own N and M."""
    published = codecs.create(TINY, seed=5).eval()
    published.update()
    published.model.entropy_bottleneck.quantiles.data.mul_(0.5)
    old = partial(re.sub, r"bottleneck\.(matrices|biases|factors)\.", r"bottleneck._\1.")
    state = {f"module.{old(name)}": value for name, value in published.model.state_dict().items()}
    monkeypatch.setitem(zoo.model_urls["mbt2018-mean"], "mse", {3: publish(OrderedDict(state))})
    monkeypatch.setitem(zoo.cfgs, "mbt2018-mean", {3: (8, 12)})
    published.update()
    codec, run, bitstream = codecs.pretrained(CONFIG, 3), new_run(), published.encode(picture())
    run.save_weights(codec)
    assert codecs.zoo_config(CONFIG, 3) == TINY
    widths = CodecConfig("bmshj2018_factorized", N=192, M=320)
    assert codecs.zoo_config(CodecConfig(widths.name), 8) == widths
    for made in (codec, codecs.load(TINY, run.path("final.safetensors"))):
        assert made.encode(picture()) == bitstream and not made.training
        assert torch.equal(made.decode(bitstream), published.decode(bitstream))


@pytest.mark.parametrize(
    ("name", "quality", "message"),
    [
        ("cheng2020_anchor", 7, "no weights of quality 7; there are: 1, 2, 3, 4, 5, 6"),
        ("scale_hyperprior_s8", 1, "scale_hyperprior_s8 has no weights of quality 1; .* none"),
    ],
)
def test_weights_that_do_not_exist_are_an_error(name, quality, message):
    for call in (codecs.pretrained, codecs.zoo_config):
        with pytest.raises(ValueError, match=message):
            call(CodecConfig(name), quality)


def test_a_download_is_kept_if_it_is_what_its_name_says(tmp_path, monkeypatch):
    """An address of the disk, in place of the network's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new"))
    torch.save({"weight": torch.ones(3)}, tmp_path / "made")
    digest = hashlib.sha256((tmp_path / "made").read_bytes()).hexdigest()[:8]
    for name in (f"right-{digest}.pth", "wrong-01234567.pth"):
        (tmp_path / name).write_bytes((tmp_path / "made").read_bytes())
    found = read_state((tmp_path / f"right-{digest}.pth").as_uri(), "these")
    assert torch.equal(found["weight"], torch.ones(3))
    with pytest.raises(WeightsUnavailable, match="invalid hash value"):
        read_state((tmp_path / "wrong-01234567.pth").as_uri(), "these")
    assert [path.name for path in tmp_path.rglob("new/**/*.pth")] == [f"right-{digest}.pth"]
