"""The bootstrap, and Bjøntegaard deltas: curves with a known answer, and refusals."""

import numpy as np
import pytest

from icmlib.metrics import bd
from icmlib.metrics.bootstrap import interval, resample_counts, whole_and_resamples

RATES = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
PSNR = np.array([28.0, 30.5, 33.5, 36.0, 38.0])
LINE = 30 + 6 * np.log2(RATES / 0.1)


def test_resample_counts_draw_n_of_n(rng):
    counts = resample_counts(30, 2000, rng)
    assert counts.shape == (2000, 30) and (counts.sum(axis=1) == 30).all()
    # An image is missing from a resample with chance (1 - 1/n)^n.
    assert (counts == 0).mean() == pytest.approx((29 / 30) ** 30, abs=0.01)


def test_the_whole_set_stands_before_its_resamples():
    counts = whole_and_resamples(4, 3, np.random.default_rng(1))
    assert counts[0].tolist() == [1] * 4
    assert np.array_equal(counts[1:], resample_counts(4, 3, np.random.default_rng(1)))


def test_the_interval_is_of_what_is_finite(rng):
    draws = np.concatenate([rng.permutation(np.arange(201)), [np.nan, np.inf]])
    assert interval(draws) == (5, 195)
    assert np.isnan(interval(draws[-2:])).all()


@pytest.mark.parametrize(
    ("of", "before", "after", "value", "overlap"),
    [
        ("rate", PSNR, (0.9 * RATES, PSNR), -10, 1),  # a tenth less everywhere
        ("rate", PSNR, (RATES, PSNR), 0, 1),
        ("quality", PSNR, (RATES, PSNR + 1), 1, 1),  # more is better
        ("quality", LINE, (0.9 * RATES, LINE), -6 * np.log2(0.9), np.log(14.4) / np.log(16)),
        ("rate", LINE, (RATES, LINE + 3), 100 * (2**-0.5 - 1), 21 / 24),  # half an octave less
    ],
)
def test_by_hand(of, before, after, value, overlap):
    shuffled = tuple(axis[[2, 0, 4, 1, 3]] for axis in after)
    delta = bd.delta((RATES, before), shuffled, of=of)
    assert delta.value == pytest.approx(value, abs=1e-9) and delta.reason == ""
    assert delta.overlap == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("of", "axis", "moved", "overlap"),
    [
        ("rate", "quality", (RATES, PSNR + 20), 0),
        ("quality", "rate", (99 * RATES, PSNR), 0),
        ("rate", "quality", (RATES, PSNR + 7), 0.3),  # 3 of 10 dB are common
    ],
)
def test_small_overlap_is_refused_and_stated(of, axis, moved, overlap):
    """A curve within the other overlaps wholly."""
    delta = bd.delta((RATES, PSNR), moved, of)
    assert delta.reason == f"the {axis} ranges overlap by {overlap:.0%}; need 50%"
    assert np.isnan(delta.value) and delta.overlap == pytest.approx(overlap)
    inner = bd.delta((RATES, PSNR), (RATES, np.linspace(31, 34, 5)))
    assert inner.overlap == 1 and np.isfinite(inner.value)


@pytest.mark.parametrize(
    "rates, qualities, reason",
    [
        (RATES[:2], PSNR[:2], "test has 2 points; need 3"),
        (RATES, [28, 30, 29, 36, 38], "test is not monotone"),
        ([0.1, 0.2, 0.2, 0.8, 1.6], PSNR, "test is not monotone"),
        (RATES, [28, 30, 33, 36, np.inf], "test has a point that is not finite"),
        ([0, 0.2, 0.4, 0.8, 1.6], PSNR, "test has a point that is not finite, or no rate"),
    ],
)
def test_unfit_curves_give_a_reason_and_no_number(rates, qualities, reason):
    for of in ("rate", "quality"):
        delta = bd.delta((RATES, PSNR), (np.array(rates), np.array(qualities)), of)
        assert np.isnan(delta.value) and delta.reason.startswith(reason)


def resampled(bits: np.ndarray, quality: np.ndarray, resamples: int = 60) -> tuple:
    """A curve (points, 1 + R) of bits and qualities (points, images), by the same draws."""
    counts = whole_and_resamples(bits.shape[1], resamples, np.random.default_rng(3))
    return bits @ counts.T, quality @ counts.T / bits.shape[1]


def images(rng, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Bits and PSNR (points, images): each image its own size and level."""
    bits = 1e4 * RATES[:, None] * rng.lognormal(0, 0.3, n)
    return bits, PSNR[:, None] + rng.normal(0, 2, n)


def test_interval_holds_the_truth_and_narrows(rng):
    """Savings of 10 % on average, another for each image: more images, a narrower interval."""
    widths = []
    for n in (20, 320):
        bits, quality = images(rng, n)
        saved = bits * rng.uniform(0.8, 1.0, n)
        delta = bd.resampled_delta(*(resampled(each, quality, 200) for each in (bits, saved)))
        whole = bd.delta((bits.sum(1), quality.mean(1)), (saved.sum(1), quality.mean(1)))
        assert delta.value == pytest.approx(whole.value)
        assert delta.low < delta.value < delta.high and delta.low < -10 < delta.high
        widths.append(delta.high - delta.low)
    assert widths[1] < 0.5 * widths[0]


def test_no_interval_where_too_few_resamples_have_a_delta():
    """One image alone keeps the curve monotone: without it there is no delta."""
    bits = RATES[:, None] * np.ones(6)
    quality = np.tile(PSNR[::-1, None], 6)
    quality[:, 0] = 30 * PSNR
    curves = [resampled(each, quality, 200) for each in (bits, 0.9 * bits)]
    delta = bd.resampled_delta(*curves)
    assert delta.value == pytest.approx(-10) and np.isnan(delta.low)
    assert delta.reason.startswith("no interval: ") and delta.reason.endswith("have a delta")
