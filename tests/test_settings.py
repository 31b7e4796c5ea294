"""Decoded with other settings than it was encoded with: the same symbols, or an error."""

import contextlib

import pytest
import skimage.data
import torch
from conftest import icm_process, picture, tiny_codec

from icmlib.codecs import BitstreamError
from icmlib.studies.trained import load_decoders

NAMES = ["scale_hyperprior_s8", "mbt2018_mean", "mbt2018"]


@contextlib.contextmanager
def switched(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def threads(count: int):
    return switched(torch.get_num_threads, torch.set_num_threads, count)


precision = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
# a setting, and whether the picture is the same to the last bit; else its symbols are
SETTINGS = {
    "2 threads": (lambda: threads(2), False),
    "bf16 autocast": (lambda: torch.autocast("cpu", torch.bfloat16), True),
    "bf16 matmul": (lambda: switched(*precision, "medium"), True),
    "no oneDNN": (lambda: torch.backends.mkldnn.flags(enabled=False), False),
}


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    """The encoder computes with one: several add in another order, which may round otherwise."""
    codec, seen = load_decoders().codec, set()
    compress = codec._compress
    watched = lambda x: seen.add(torch.get_num_threads()) or compress(x)  # noqa: E731
    monkeypatch.setattr(codec, "_compress", watched)
    for count in (1, 2, 3):
        with threads(count):
            codec.encode(torch.rand(3, 64, 64))
            assert torch.get_num_threads() == count
    assert seen == {1}


@pytest.mark.slow
@pytest.mark.parametrize("oldest", [("SSE41", "default"), ("AVX2", "avx2")])
def test_older_processors_read_what_newer_ones_wrote(tmp_path, oldest):
    """With h_s in float32, AVX2 could not read what AVX-512 wrote of these photographs."""
    codec = load_decoders().codec
    for name in ("astronaut", "chelsea"):
        x = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) / 255
        (tmp_path / f"{name}.icm").write_bytes(bytes(codec.encode(x)))
    limits = dict(zip(("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"), oldest))
    done = icm_process("decode", tmp_path, tmp_path / "decoded", **limits)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_settings_decode_alike_or_not_at_all(name, setting):
    codec, x = tiny_codec(name=name), picture(64, 80)
    changed, exactly = SETTINGS[setting]
    plain = codec.encode(x)
    expected = codec.decode(plain)
    assert codec.decode_latents(plain).abs().max() > 1
    with changed():
        other = codec.encode(x)
    for inside, bitstream in ((changed, plain), (contextlib.nullcontext, other)):
        try:
            with inside():
                decoded = codec.decode(bitstream)
        except BitstreamError as error:
            assert name == "mbt2018" and not exactly and "symbols differ" in str(error)
        else:
            torch.testing.assert_close(decoded, expected, atol=0 if exactly else 1e-4, rtol=0)
    assert bytes(other) == bytes(plain) or not exactly
