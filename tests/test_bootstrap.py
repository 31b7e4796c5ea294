import numpy as np
import pytest

from icmlib.metrics.bootstrap import interval, resample_counts, whole_and_resamples


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
