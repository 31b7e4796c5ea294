import pytest

from icmlib.metrics import resample_counts
from icmlib.metrics.rate import bpp, total_bpp


def test_bits_per_pixel_by_hand():
    assert bpp(100, 20, 40) == 1.0
    assert bpp(0, 20, 40) == 0.0


def test_a_set_is_total_bits_over_total_pixels():
    # 800 bits on 100 px and 800 bits on 300 px: 4 bpp, not the mean of 8 and 2.67.
    assert total_bpp([100, 100], [100, 300]) == 4.0


@pytest.mark.parametrize(
    "n_bytes, pixels", [([], []), ([1], [1, 2]), ([1, 1], [10, 0]), ([-1], [10])]
)
def test_impossible_sets_are_refused(n_bytes, pixels):
    with pytest.raises(ValueError, match="pixel"):
        total_bpp(n_bytes, pixels)


def test_resample_counts_draw_n_of_n(rng):
    counts = resample_counts(30, 2000, rng)
    assert counts.shape == (2000, 30)
    assert (counts.sum(axis=1) == 30).all()
    # An image is missing from a resample with chance (1 - 1/n)^n.
    assert (counts == 0).mean() == pytest.approx((29 / 30) ** 30, abs=0.01)
    with pytest.raises(ValueError, match="at least one image"):
        resample_counts(0, 10, rng)
