"""Bjøntegaard deltas: curves with a known answer, the library itself, and refusals."""

import bjontegaard
import numpy as np
import pytest

from icmlib.metrics import bd
from icmlib.metrics.detection import average_precision, match

RATES = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
PSNR = np.array([28.0, 30.5, 33.5, 36.0, 38.0])


def test_a_tenth_less_rate_everywhere_is_minus_ten_percent():
    delta = bd.delta((RATES, PSNR), (0.9 * RATES, PSNR))
    assert delta.value == pytest.approx(-10, abs=1e-9) and delta.reason == ""
    assert delta.quality_overlap == 1 and delta.qualities == (28, 38)
    assert delta.rates == pytest.approx((0.1, 1.44))
    assert delta.rate_overlap == pytest.approx(np.log(14.4) / np.log(16))


def test_a_constant_gain_is_that_gain():
    """One decibel more at every rate; and the sign: more is better."""
    delta = bd.delta((RATES, PSNR), (RATES, PSNR + 1), of="quality")
    assert delta.value == pytest.approx(1, abs=1e-9) and delta.rate_overlap == 1
    assert bd.delta((RATES, PSNR), (RATES, PSNR)).value == pytest.approx(0, abs=1e-12)


def test_a_straight_line_by_hand():
    """6 dB a doubling against 6 dB a doubling 3 dB higher: half an octave, 1 - 1/sqrt 2 less."""
    line = 30 + 6 * np.log2(RATES / 0.1)
    delta = bd.delta((RATES, line), (RATES, line + 3))
    assert delta.value == pytest.approx(100 * (2**-0.5 - 1), abs=1e-9)
    assert delta.quality_overlap == pytest.approx(21 / 24) and delta.qualities == (33, 54)


@pytest.mark.parametrize("of", ["rate", "quality"])
def test_as_the_library_called_directly(of):
    """Unlike numbers of points, any order."""
    other = np.array([0.07, 0.17, 0.35, 0.9]), np.array([27.0, 30.4, 33.2, 37.1])
    function = {"rate": bjontegaard.bd_rate, "quality": bjontegaard.bd_psnr}[of]
    expected = function(
        RATES, PSNR, *other, method="pchip", require_matching_points=False, min_overlap=0
    )
    shuffled = tuple(axis[[2, 0, 3, 1]] for axis in other)
    value = bd.delta((RATES, PSNR), shuffled, of).value
    assert value == pytest.approx(expected, rel=1e-12) and abs(value) > 0.1


def test_units_of_rate_and_the_swap():
    other = 0.8 * RATES, PSNR + 0.3
    value = bd.delta((RATES, PSNR), other).value
    in_bits = bd.delta((1e6 * RATES, PSNR), (1e6 * other[0], other[1])).value
    back = bd.delta(other, (RATES, PSNR)).value
    assert in_bits == pytest.approx(value) and (1 + value / 100) * (
        1 + back / 100
    ) == pytest.approx(1)


@pytest.mark.parametrize(
    "of, moved", [("rate", (RATES, PSNR + 20)), ("quality", (99 * RATES, PSNR))]
)
def test_no_number_without_overlap(of, moved):
    delta = bd.delta((RATES, PSNR), moved, of)
    axis = {"rate": "quality", "quality": "rate"}[of]
    assert np.isnan(delta.value) and f"the {axis} ranges overlap by 0%; need 50%" == delta.reason
    assert getattr(delta, f"{axis}_overlap") == 0


def test_small_overlap_is_refused_stated_and_can_be_asked_for():
    """3 of 10 dB are common; a curve within the other overlaps wholly."""
    moved = RATES, PSNR + 7
    delta = bd.delta((RATES, PSNR), moved)
    assert np.isnan(delta.value) and "overlap by 30%; need 50%" in delta.reason
    assert delta.qualities == (35, 38) and delta.rate_overlap == 1
    assert np.isfinite(bd.delta((RATES, PSNR), moved, min_overlap=0.3).value)
    inner = bd.delta((RATES, PSNR), (RATES, np.linspace(31, 34, 5)))
    assert inner.quality_overlap == 1 and np.isfinite(inner.value)


@pytest.mark.parametrize(
    "rates, qualities, reason",
    [
        (RATES[:3], PSNR[:3], "test has 3 points; need 4"),
        (RATES, [28, 30, 29, 36, 38], "test is not monotone: quality 30 at rate 0.2, 29 at 0.4"),
        (RATES, [28, 30, 30, 36, 38], "test is not monotone"),
        ([0.1, 0.2, 0.2, 0.8, 1.6], PSNR, "test is not monotone"),
        (RATES, [28, 30, 33, 36, np.inf], "test has a point that is not finite"),
        (RATES, [28, 30, 33, 36, np.nan], "test has a point that is not finite"),
        ([0, 0.2, 0.4, 0.8, 1.6], PSNR, "test has a point that is not finite, or no rate"),
    ],
)
def test_unfit_curves_give_a_reason_and_no_number(rates, qualities, reason):
    for of in ("rate", "quality"):
        delta = bd.delta((RATES, PSNR), (rates, qualities), of)
        assert np.isnan(delta.value) and delta.reason.startswith(reason)


def test_arguments_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"test has rates \(5,\) and qualities \(4,\)"):
        bd.delta((RATES, PSNR), (RATES, PSNR[:4]))
    with pytest.raises(ValueError, match="of is 'psnr'; need 'rate' or 'quality'"):
        bd.delta((RATES, PSNR), (RATES, PSNR), of="psnr")
    bits = np.ones((5, 3))
    with pytest.raises(ValueError, match=r"have \[3, 4\] images"):
        bd.bootstrap((bits, bits), (np.ones((5, 4)), bits), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"quality has shape \(4, 1001\), bits \(5, 1001\)"):
        bd.bootstrap((bits, bits[:4]), (bits, bits), rng=np.random.default_rng(0))


# --- bootstrap ---------------------------------------------------------------------------


def images(rng, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Bits and PSNR (points, images): each image its own size and level."""
    bits = 1e4 * RATES[:, None] * rng.lognormal(0, 0.3, n)
    return bits, PSNR[:, None] + rng.normal(0, 2, n)


def test_interval_of_a_sure_difference_is_a_point(rng):
    bits, quality = images(rng)
    delta = bd.bootstrap((bits, quality), (0.9 * bits, quality), resamples=50, rng=rng)
    assert (delta.value, delta.low, delta.high) == pytest.approx((-10, -10, -10))
    assert delta.valid == 1 and delta.reason == ""


def test_interval_holds_the_truth_and_narrows(rng):
    """Savings of 10 % on average, another for each image: more images, a narrower interval."""
    widths = []
    for n in (20, 320):
        bits, quality = images(rng, n)
        saved = bits * rng.uniform(0.8, 1.0, n)
        delta = bd.bootstrap((bits, quality), (saved, quality), resamples=200, rng=rng)
        whole = bd.delta((bits.sum(1), quality.mean(1)), (saved.sum(1), quality.mean(1)))
        assert delta.value == pytest.approx(whole.value)
        assert delta.low < delta.value < delta.high and delta.low < -10 < delta.high
        widths.append(delta.high - delta.low)
    assert widths[1] < 0.5 * widths[0]


def test_same_images_for_both_codecs(rng):
    """A callable sees the counts; paired draws cancel what both codecs share."""
    bits, quality = images(rng)
    seen = []

    def mean(counts):
        seen.append(counts)
        return quality @ counts.T / counts.shape[1]

    delta = bd.bootstrap((bits, mean), (bits, mean), "quality", 30, rng=rng)
    assert np.array_equal(*seen) and seen[0].shape == (31, 40) and (seen[0].sum(1) == 40).all()
    assert (delta.value, delta.low, delta.high) == (0, 0, 0)
    plain = bd.bootstrap((bits, quality), (0.7 * bits, quality + 1), "rate", 30, rng=rng)
    assert plain.low < plain.high


def test_quality_that_is_no_mean(rng):
    """mAP of the resampled images, which grows with the rate."""
    truth = {
        "images": [{"id": i, "width": 32, "height": 32} for i in range(48)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400}
            for i in range(48)
        ],
    }

    def matches(found: int):
        boxes = [[2, 2, 20, 20] if i < found else [25, 25, 4, 4] for i in range(48)]
        return match(
            truth,
            [
                {"image_id": i, "category_id": 1, "bbox": box, "score": 0.9 - 0.01 * i}
                for i, box in enumerate(boxes)
            ],
            "bbox",
        )

    def quality(gain: int):
        points = [matches(found + gain) for found in (10, 20, 30, 40)]
        return lambda counts: np.stack([average_precision(m, counts)["AP"] for m in points])

    bits = np.array([1.0, 2, 4, 8])[:, None] * rng.lognormal(0, 0.2, 48)
    delta = bd.bootstrap((bits, quality(0)), (bits, quality(4)), "quality", 60, rng=rng)
    whole = [
        [average_precision(matches(f + gain))["AP"] for f in (10, 20, 30, 40)] for gain in (0, 4)
    ]
    expected = bd.delta((bits.sum(1), whole[0]), (bits.sum(1), whole[1]), "quality").value
    assert delta.value == pytest.approx(expected) and delta.value > 0.05
    assert delta.low <= delta.value <= delta.high and delta.low < delta.high and delta.valid == 1


def test_no_interval_where_too_few_resamples_have_a_delta(rng):
    """One image alone keeps the curve monotone: without it there is no delta."""
    bits = RATES[:, None] * np.ones(6)
    quality = np.tile(PSNR[::-1, None], 6)
    quality[:, 0] = 30 * PSNR
    delta = bd.bootstrap((bits, quality), (0.9 * bits, quality), resamples=200, rng=rng)
    assert delta.value == pytest.approx(-10) and np.isnan(delta.low) and 0.4 < delta.valid < 0.8
    assert delta.reason.startswith("no interval: ") and delta.reason.endswith("have a delta")


def test_seeded(rng):
    bits, quality = images(rng)
    one, same = (
        bd.bootstrap(
            (bits, quality), (bits, quality + rate), resamples=100, rng=np.random.default_rng(1)
        )
        for rate in (0.5, 0.5)
    )
    assert one == same
