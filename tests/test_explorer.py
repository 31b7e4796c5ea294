"""The explorer without a browser: what a change of each control shows anew, and what it leaves."""

import hashlib
import io
import re
from datetime import UTC, datetime

import pytest
import torch
from conftest import picture, tiny_codec
from PIL import Image
from torchvision.transforms.functional import to_tensor

from icmlib.codecs import Bitstream, Decoders, anchor
from icmlib.explorer import CodedImage, Explorer, widget
from icmlib.metrics import checkerboard, fidelity


class OneBox:
    """A task network that finds one object, as bright as the image, and counts its calls."""

    calls = 0

    def predict(self, images):
        self.calls += 1
        return [
            {
                "boxes": torch.tensor([[4.0, 8.0, 20.0, 24.0], [0.0, 0.0, 9.0, 9.0]]),
                "labels": torch.tensor([2, 1]),
                "scores": torch.stack([0.5 + image.mean() / 2, torch.tensor(0.4)]),
            }
            for image in images
        ]


def shown(png: bytes) -> torch.Tensor:
    return to_tensor(Image.open(io.BytesIO(png)))


@pytest.fixture
def explorer(decoders):
    images = {"first": picture(40, 56), "second": picture(64, 64, seed=1)}
    return Explorer({"only": decoders}, OneBox(), images, ["disk", "square"])


def test_the_bits_are_written_once_and_read_by_every_decoder(decoders):
    x = picture(40, 56)
    image = CodedImage(decoders, x)
    bitstream = Bitstream.from_bytes(image.file)
    assert bytes(decoders.codec.encode(x)) == image.file
    for to in ("machine", 0.3, 1.0, "low_impact", 0):
        assert image.decode(to).equal(fidelity.to_8bit(decoders.turn(to).decode(bitstream)))
    assert image.bpp == 8 * bitstream.payload_bytes / (40 * 56)
    assert image.sha256 == hashlib.sha256(image.file).hexdigest()


def test_readings_are_those_of_the_metrics(decoders):
    x = picture(40, 56)
    image = CodedImage(decoders, x)
    machine = image.decode("machine")
    row, planes = image.measure(machine), checkerboard.planes(machine)
    spectra = checkerboard.at_lattice(checkerboard.welch_spectrum(planes, 32))
    pattern = checkerboard.read_pattern(spectra[None], 32)
    assert row["psnr"] == fidelity.psnr(x[None], machine[None]).item()
    assert (row["lpp4"], row["prms"]) == (pattern["lpp4"], pattern["prms"])
    assert not image.residual_spectrum(x).any() and image.residual_spectrum(machine).any()


def test_the_table_has_no_number_for_what_is_missing():
    markup = widget.table({"a": {"psnr": 30.128}, "b": {"prms": 1.0}})
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", markup.split("<tbody>")[1])
    assert cells == ["a", "", "30.13", *[""] * 5, "b", *[""] * 6, "1"]


def test_the_knob_turns_the_picture_and_leaves_the_bits(explorer):
    divider, bits = explorer.divider, explorer.bits.value
    before, seen = divider.before, [(divider.after, explorer.spectrum.value, explorer.table.value)]
    for place in (0.5, 1.0):
        explorer.knob.value = place
        assert divider.after_label == f"knob {place:.2f}" in explorer.table.value
        assert shown(divider.after).equal(explorer.coded.decode(place))
        seen.append((divider.after, explorer.spectrum.value, explorer.table.value))
    assert all(len(set(each)) == 3 for each in zip(*seen))
    assert (divider.before, explorer.bits.value) == (before, bits)
    assert explorer.coded.sha256[:16] in bits


def test_other_decoders_of_the_file_go_by_name(explorer):
    explorer.decoder.value = "low_impact"
    assert shown(explorer.divider.after).equal(explorer.coded.decode("low_impact"))
    assert explorer.divider.after_label == "low_impact" and explorer.knob.disabled
    explorer.decoder.value = "knob"
    assert explorer.divider.after_label == "knob 0.00" and not explorer.knob.disabled


def test_without_a_human_decoder_there_is_no_knob(codec):
    explorer = Explorer({"only": Decoders(codec, {})}, None, {"first": picture(40, 56)}, [])
    assert explorer.knob.disabled and explorer.detections.disabled
    assert explorer.divider.after_label == "machine"


def test_another_rate_has_its_own_bits_and_decoders(decoders):
    other = Decoders(tiny_codec(1), {})
    explorer = Explorer({"low": other, "high": decoders}, None, {"first": picture(40, 56)}, [])
    explorer.decoder.value, high = "low_impact", explorer.coded
    explorer.rate.value = "low"
    assert explorer.decoder.options == ("machine",) and explorer.divider.after_label == "machine"
    assert shown(explorer.divider.after).equal(CodedImage(other, picture(40, 56)).decode("machine"))
    explorer.rate.value = "high"
    assert explorer.coded is high and "knob" in explorer.decoder.options


@pytest.mark.parametrize("name", ["JPEG", "WebP", "AVIF"])
def test_an_anchor_takes_as_many_bits_as_the_codec_at_most(explorer, name):
    explorer.image.value, explorer.before.value = "second", name
    coded, label = explorer.coded, explorer.divider.before_label
    assert label.startswith(f"{name}, quality ") and label in explorer.table.value
    quality, options = int(label.split()[-1]), {} if name == "WebP" else {"container": False}
    best, above = (anchor(name, quality=quality + more, **options) for more in (0, 1))
    bits, size = best.encode(coded.x), coded.bitstream.payload_bytes
    assert bits.payload_bytes <= size < above.encode(coded.x).payload_bytes
    assert shown(explorer.divider.before).equal(best.decode(bits))
    assert f"{8 * bits.payload_bytes / 64**2:.4g}" in explorer.table.value


def test_a_sign_stands_as_long_as_something_is_computed_which_is_once(explorer):
    signs, explorer.detections.value = [], True
    explorer.status.observe(lambda change: signs.append(change["new"]), "value")
    for place in (0.5, 0, 0.5):
        explorer.knob.value = place
    assert ["icm-busy" in sign for sign in signs] == 3 * [True, False]
    assert explorer.status.value == "" and explorer.task.calls == 3  # original, 0 and 0.5


def test_detections_are_looked_for_only_when_asked(explorer):
    explorer.knob.value, divider, task = 0.5, explorer.divider, explorer.task
    assert task.calls == 0 and divider.after_boxes == []
    explorer.detections.value = True
    boxes = divider.before_boxes + divider.after_boxes
    assert [box["box"] for box in boxes] == 2 * [[4, 8, 20, 24]]
    assert boxes[0]["text"] != boxes[1]["text"]
    explorer.detections.value = False
    assert divider.before_boxes == divider.after_boxes == []


def test_another_image_is_shown_whole(explorer):
    explorer.knob.value, explorer.detections.value = 0.5, True
    bits = explorer.bits.value
    explorer.image.value = "second"
    divider = explorer.divider
    assert (divider.width, divider.height, divider.zoom) == (64, 64, 8)
    assert shown(divider.before).equal(explorer.images["second"])
    assert shown(divider.after).equal(explorer.coded.decode(0.5))
    assert explorer.bits.value != bits and explorer.coded.sha256[:16] in explorer.bits.value


def upload(explorer: Explorer, name: str, content: bytes) -> None:
    given = {"name": name, "type": "image/png", "size": len(content), "content": content}
    explorer.upload.value = [given | {"last_modified": datetime.now(UTC)}]


def test_an_own_file_is_shown_the_way_up_that_the_camera_noted(explorer):
    turned, content = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.new("RGB", (48, 40), "red").save(content, "PNG", exif=turned)
    upload(explorer, "mine.png", content.getvalue())
    assert explorer.image.value == "mine.png" and explorer.upload.value == ()
    assert (explorer.divider.width, explorer.divider.height) == (40, 48)
    explorer.image.value = "first"
    assert explorer.images["mine.png"].shape == (3, 48, 40)


@pytest.mark.parametrize(("size", "reason"), [((9, 9), "9x9 px"), (None, "cannot be read")])
def test_an_own_file_of_no_use_leaves_what_is_shown(explorer, size, reason):
    content, before = io.BytesIO(b"<html>"), explorer.divider.after
    if size:
        Image.new("RGB", size).save(content, "PNG")
    upload(explorer, "<b>.png", content.getvalue())
    assert reason in explorer.status.value and "<b>.png" not in explorer.status.value
    assert explorer.divider.after == before and explorer.image.value == "first"
