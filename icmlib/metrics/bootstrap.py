"""The bootstrap over images, one for all metrics."""

import numpy as np


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `n` images is drawn in each resample: (resamples, n), rows of sum n."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def whole_and_resamples(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n images counts, (1 + resamples, n): once each, then as drawn."""
    return np.concatenate([np.ones((1, n), int), resample_counts(n, resamples, rng)])


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the finite ones of resampled figures (R,); nan where there are none."""
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) else (np.nan, np.nan)
    return float(low), float(high)
