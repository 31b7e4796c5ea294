import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import picture, tiny_codec

from icmlib import codecs
from icmlib.codecs import FILTERS, Bitstream, BitstreamError, PillowCodec, cached_latents
from icmlib.config import BaseTrainingConfig, CodecConfig
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import estimated_bpp
from icmlib.training import train_base_codec


class Noise(list):
    image = list.__getitem__


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (33, 50)])
def test_decoded_is_what_the_latents_synthesize(codec, size):
    x = picture(*size)
    bitstream = Bitstream.from_bytes(bytes(codec.encode(x)))
    x_hat = codec.decode(bitstream)
    y_hat = codec.latents(x[None])
    assert y_hat.abs().max() > 1 and y_hat.unique().numel() > 3
    assert torch.equal(codec.decode_latents(bitstream), y_hat)
    assert torch.equal(x_hat, codec.synthesize(y_hat, *size)[0])
    with torch.no_grad():  # what training sees, but for its noise
        seen = codec(x[None])["x_hat"][0].clamp(0, 1)
    torch.testing.assert_close(x_hat, seen, atol=1e-6, rtol=0)
    assert x_hat.shape == x.shape and 0 <= x_hat.min() and x_hat.max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * float("nan"), "image runs from nan to nan"),
        (lambda x: 255 * x, r"image runs from .* to 2\d\d.*; need \[0, 1\]"),
        (lambda x: x[None], r"image is \(1, 3, 64, 64\) of torch.float32; need \(3, H, W\)"),
        (lambda x: (255 * x).byte(), "of torch.uint8"),
    ],
)
def test_what_is_no_image_is_refused(codec, change, message):
    for coder in (codec, PillowCodec("PNG")):
        with pytest.raises(ValueError, match=message):
            coder.encode(change(picture()))
    with pytest.raises(ValueError, match="image is 64x7 px; the codec needs at least 8x8"):
        codec.encode(picture(7, 64))


@pytest.mark.parametrize("name", codecs.MODELS)
def test_bits_and_picture_are_those_of_compressai(name):
    """Whose means are float32's; and no picture is made of wrong symbols."""
    codec, plain = (tiny_codec(name=name) for _ in range(2))
    x = picture(64, 128)
    with torch.no_grad():
        coded = plain.model.compress(x[None])
        decoded = plain.model.decompress(**coded)["x_hat"][0]
    bitstream = codec.encode(x)
    assert bitstream.strings == tuple(string[0] for string in coded["strings"])
    torch.testing.assert_close(codec.decode(bitstream), decoded, atol=1e-2, rtol=0)
    damaged = dataclasses.replace(bitstream, symbols_crc=bitstream.symbols_crc ^ 1)
    with pytest.raises(BitstreamError, match="decoded symbols differ from the encoded"):
        codec.decode(damaged)


@pytest.mark.parametrize("name", ["scale_hyperprior_s8", "mbt2018"])
def test_two_threads_code_at_once(name):
    codec, pictures = tiny_codec(name=name), [picture(64, 64, seed) for seed in range(4)]
    other = codec.with_decoder({n: 1.1 * w for n, w in codec.g_s.state_dict().items()})
    jobs = [(each, x) for x in pictures for each in (codec, other, codec)]

    def coded(job):
        bitstream = job[0].encode(job[1])
        return bitstream, job[0].decode(bitstream)

    with ThreadPoolExecutor(3) as threads:
        at_once = list(threads.map(coded, jobs))
    for (bits, x_hat), (expected_bits, expected) in zip(at_once, map(coded, jobs)):
        assert bits == expected_bits and torch.equal(x_hat, expected)


def test_real_bytes_are_those_of_the_rate_estimate(new_run, task):
    """Within 3 % and the headers; without the auxiliary loss files are 5 to 7 % larger."""
    codec = codecs.create(CodecConfig(N=8, M=12))
    codec.model.entropy_bottleneck.quantiles.data.mul_(0.01)
    config = BaseTrainingConfig(steps=80, batch=4, crop=64, lr=3e-3, aux_lr=0.3, lambda_mse=3e3)
    train_base_codec(codec, task, Noise(picture(64, 64, i) for i in range(8)), config, new_run())
    images = Noise(picture(256, 256, i) for i in range(3))
    bits = [bpp * 256 * 256 for bpp in estimated_bpp(codec, images)]
    streams = [codec.encode(x) for x in images]
    headers = sum(s.total_bytes - s.payload_bytes + 16 for s in streams)  # 16: two coder states
    total = sum(s.total_bytes for s in streams)
    assert sum(bits) / 8 > 10 * headers
    assert 0.97 * sum(bits) / 8 <= total <= 1.03 * sum(bits) / 8 + headers


def test_bitstream_of_another_codec_is_refused(codec):
    other = tiny_codec(seed=1)
    assert other.fingerprint != codec.fingerprint
    bitstream = codec.encode(picture())
    message = f"{codec.fingerprint}, this one is {other.fingerprint}"
    with pytest.raises(BitstreamError, match=message):
        other.decode(bitstream)
    with pytest.raises(BitstreamError, match="holds 1 strings"):
        codec.decode(dataclasses.replace(bitstream, strings=bitstream.strings[:1]))
    other = tiny_codec()
    assert other.fingerprint == codec.fingerprint
    with torch.no_grad():  # a machine that computes slightly other probabilities
        other.model.h_s[-2].bias += 3.0
    with pytest.raises(BitstreamError):
        other.decode(bitstream)


@pytest.mark.parametrize("name", codecs.MODELS)
def test_parts_cover_every_parameter_once(name):
    codec = codecs.create(CodecConfig(name, N=8, M=12))
    parts = [p for modules in codec.parts.values() for m in modules for p in m.parameters()]
    assert len(parts) == len(set(parts)) and set(parts) == set(codec.parameters())
    assert all(any([*m.parameters()] for m in modules) for modules in codec.parts.values())


def test_saved_or_pickled_codec_writes_the_same_bytes(codec, new_run):
    """Weights and tables are all there is: no update() after loading."""
    run = new_run()
    run.save_weights(codec)
    bitstream = codec.encode(picture())
    loaded = codecs.load(CodecConfig(N=8, M=12), run.path("final.safetensors"))
    for made in (loaded, pickle.loads(pickle.dumps(codec))):
        assert made.encode(picture()) == bitstream
        assert torch.equal(made.decode(bitstream), codec.decode(bitstream))
    with pytest.raises(ValueError, match=r"another architecture .*mismatch for model\.\S+"):
        codecs.load(CodecConfig(N=8, M=16), run.path("final.safetensors"))


def test_codec_by_name():
    state = torch.get_rng_state()
    one, same, other = (codecs.create(CodecConfig(N=8, M=12), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match=r"no tables for its entropy coder; call update\(\)"):
        one.encode(picture())
    narrow = codecs.create(CodecConfig("cheng2020_attn", N=8, M=12))  # has one width
    assert narrow.model.g_a(picture()[None]).shape == (1, 8, 4, 4)
    with pytest.raises(ValueError, match=r"'mbt2018-mean' \(did you mean 'mbt2018_mean'\?\)"):
        codecs.create(CodecConfig("mbt2018-mean"))


@pytest.mark.parametrize("name", codecs.MODELS)
def test_cached_latents_are_what_the_decoder_sees(scenes, tmp_path, name):
    """Of real bits, to the last one, with means and medians. Integers take half the space."""
    codec, dataset = tiny_codec(name=name), scenes("val")
    latents = cached_latents(codec, dataset, tmp_path)
    assert len(latents) == len(dataset) == 2
    integers = "_s8" in name or name == "bmshj2018_hyperprior"
    for index in range(len(dataset)):
        assert latents[index].dtype == (torch.int16 if integers else torch.float32)
        y_hat = latents[index].float()[None]
        decoded = codec.decode_latents(codec.encode(dataset.image(index)))
        assert y_hat.abs().max() > 1 and torch.equal(y_hat, decoded)


def test_latents_too_large_for_int16_are_kept_whole(codec, scenes, tmp_path):
    with torch.no_grad():
        codec.model.g_a[4].weight *= 1e5
    latents = cached_latents(codec, scenes("val"), tmp_path)
    assert latents[0].abs().max() > 2**15
    assert torch.equal(latents[0], codec.latents(scenes("val").image(0)[None])[0])


def test_latents_are_computed_once_for_each_codec_and_images(tmp_path, monkeypatch):
    """Dead leaves of another seed, or another split, have the very same file names and sizes."""
    counts, made = {"train": 1, "val": 1, "test": 1}, [tiny_codec(seed) for seed in (0, 1)]
    folders = [deadleaves.generate(tmp_path, 64, counts, seed, workers=0) for seed in (0, 1)]
    sets = [CocoDataset(folder / split) for folder in folders for split in ("train", "val")]
    cases = [(codec, data, tmp_path / "latents") for data in sets for codec in made]
    first = [cached_latents(*case)[0] for case in cases]
    for (codec, data, _), latents in zip(cases, first):
        assert torch.equal(latents.float(), codec.latents(data.image(0)[None])[0])
    for codec in made:
        monkeypatch.setattr(codec, "latents", lambda *_: pytest.fail("computed again"))
    assert all(cached_latents(*case)[0].equal(latents) for case, latents in zip(cases, first))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_the_bits_and_smooth_the_picture(name):
    x, png = picture(40, 48), PillowCodec("PNG")
    filtered = FILTERS[name](png, 1.5)
    bitstream = filtered.encode(x)
    x_hat = filtered.decode(bitstream)
    assert bitstream == png.encode(x) and x_hat.shape == x.shape
    assert x_hat.diff(dim=-1).abs().mean() < 0.8 * x.diff(dim=-1).abs().mean()


def test_bilateral_filter_keeps_edges_that_gaussian_blurs():
    """An edge of 0.8 is outside the colour range of 0.2: no side leaks into the other."""
    x, png = torch.full((3, 12, 12), 0.1), PillowCodec("PNG")
    x[:, :, 6:] = 0.9
    kept, blurred = (FILTERS[n](png, 1.0).decode(png.encode(x)) for n in ("bilateral", "gaussian"))
    assert (kept - x).abs().max() < 0.01 < 0.1 < (blurred - x).abs().max()
