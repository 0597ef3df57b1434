"""The drift's filter and smoother against dense linear algebra, robust lines against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from arrays import frozen
from stillstack.kernels import kalman, lines
from stillstack.kernels.kalman import drift_log_likelihood, smooth_drift
from stillstack.kernels.lines import line_predictions

Floats = NDArray[np.float64]


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for module in (kalman, lines):
            for name, value in vars(module).copy().items():
                if hasattr(value, "py_func"):
                    monkeypatch.setattr(module, name, value.py_func)


class Case:
    """Two segments of frames at uneven times, of which some are not seen."""

    def __init__(self, strengths: Floats) -> None:
        rng = np.random.default_rng(3)
        n = 14
        self.strengths = frozen(strengths)
        self.interval = frozen(rng.uniform(0.5, 3.0, n))
        self.fresh = frozen(np.isin(np.arange(n), [0, 8]))
        # The first segment begins and the second ends with frames that are not seen.
        self.seen = frozen(~np.isin(np.arange(n), [0, 1, 4, 12, 13]))
        self.value = frozen(rng.normal(0.0, 3.0, (n, 2)))
        root = rng.normal(size=(n, 2, 2))
        self.noise = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(2)

    @property
    def columns(self) -> Floats:
        return frozen(np.stack([self.noise[:, 0, 0], self.noise[:, 0, 1], self.noise[:, 1, 1]], 1))

    def smoothed(self) -> tuple[Floats, Floats]:
        return smooth_drift(
            self.interval, self.fresh, self.seen, self.value, self.columns, self.strengths
        )

    def dense(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Weighted least squares for positions and speeds of a segment's frames, all at once."""
        n = last - first
        normal, right = np.zeros((4 * n, 4 * n)), np.zeros(4 * n)

        def add(design: Floats, cov: Floats, value: Floats) -> None:
            weight = np.linalg.inv(cov)
            normal[:] += design.T @ weight @ design
            right[:] += design.T @ weight @ value

        # The speed's variance is that at the first frame seen.
        start = int(np.flatnonzero(self.seen[first:last])[0])
        for axis in range(2):
            speed = np.zeros((1, 4 * n))
            speed[0, 4 * start + 2 * axis + 1] = 1.0
            add(speed, self.strengths[2:, axis : axis + 1], np.zeros(1))
            for i in range(1, n):
                t = self.interval[first + i]
                q, r = self.strengths[:2, axis]
                step = np.zeros((2, 4 * n))
                now, before = 4 * i + 2 * axis, 4 * (i - 1) + 2 * axis
                step[0, now], step[0, before], step[0, before + 1] = 1.0, -1.0, -t
                step[1, now + 1], step[1, before + 1] = 1.0, -1.0
                cov = np.array([[q * t + r * t**3 / 3, r * t**2 / 2], [r * t**2 / 2, r * t]])
                add(step, cov, np.zeros(2))
        for i in np.flatnonzero(self.seen[first:last]).tolist():
            sees = np.zeros((2, 4 * n))
            sees[0, 4 * i], sees[1, 4 * i + 2] = 1.0, 1.0
            add(sees, self.noise[first + i], self.value[first + i])
        cov = np.linalg.inv(normal)
        mean = (cov @ right).reshape(n, 4)[:, [0, 2]]
        blocks = np.array([cov[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] for i in range(n)])
        return mean, np.stack([blocks[:, 0, 0], blocks[:, 0, 2], blocks[:, 2, 2]], axis=1)


def test_smoothed_drift_is_the_least_squares_answer_of_all_frames_at_once(
    either_way: None,
) -> None:
    case = Case(np.array([[0.1, 0.3], [0.02, 0.005], [1.0, 0.5]]))
    mean, cov = case.smoothed()
    for first, last in ((0, 8), (8, 14)):
        expected_mean, expected_cov = case.dense(first, last)
        assert mean[first:last] == pytest.approx(expected_mean, rel=1e-8, abs=1e-9)
        assert cov[first:last] == pytest.approx(expected_cov, rel=1e-8, abs=1e-9)


def test_a_walk_without_speed_is_the_limit_of_one_with_hardly_any(either_way: None) -> None:
    walk = np.array([0.1, 0.3])
    none = Case(np.stack([walk, np.zeros(2), np.zeros(2)])).smoothed()
    hardly = Case(np.stack([walk, np.full(2, 1e-13), np.full(2, 1e-13)])).smoothed()
    for ours, limit in zip(none, hardly, strict=True):
        assert ours == pytest.approx(limit, rel=1e-6, abs=1e-9)


def test_where_no_frame_of_a_segment_is_seen_nothing_is_known(either_way: None) -> None:
    case = Case(np.array([[0.1, 0.3], [0.02, 0.005], [1.0, 0.5]]))
    case.seen = frozen(case.seen & (np.arange(14) < 8))
    mean, cov = case.smoothed()
    assert np.isnan(mean[8:]).all()
    assert np.isnan(cov[8:]).all()
    assert np.isfinite(mean[:8]).all()


def test_likelihood_is_that_of_one_large_normal_distribution(either_way: None) -> None:
    rng = np.random.default_rng(5)
    n, (q, r, speed) = 37, (0.2, 0.01, 0.5)
    interval, variance = frozen(rng.uniform(0.2, 2.0, n)), frozen(rng.uniform(0.1, 2.0, n))
    value = frozen(rng.normal(0.0, 2.0, n))
    time = np.cumsum(interval) - interval[0]
    early, late = np.minimum.outer(time, time), np.maximum.outer(time, time)
    # Of a walk, of the integral of a walk, of a constant speed, and of where it began.
    cov = q * early + r * early**2 * (3 * late - early) / 6 + speed * np.outer(time, time)
    cov += variance[0] + np.diag(variance)
    whole = stats.multivariate_normal(np.full(n - 1, value[0]), cov[1:, 1:]).logpdf(value[1:])
    constant = -0.5 * (n - 1) * np.log(2 * np.pi)
    fresh = frozen(np.arange(n) == 0)
    ours = drift_log_likelihood(interval, fresh, value, variance, (q, r, speed))
    assert ours == pytest.approx(float(whole) - constant, rel=1e-9)


def test_segments_multiply_their_likelihoods(either_way: None) -> None:
    rng = np.random.default_rng(6)
    interval, value = frozen(np.ones(20)), frozen(rng.normal(size=20))
    variance, fresh = frozen(np.full(20, 0.3)), frozen(np.isin(np.arange(20), [0, 12]))
    strengths = (0.1, 0.0, 0.2)
    parts = [
        drift_log_likelihood(interval[s], fresh[s], value[s], variance[s], strengths)
        for s in (slice(0, 12), slice(12, 20))
    ]
    whole = drift_log_likelihood(interval, fresh, value, variance, strengths)
    assert whole == pytest.approx(sum(parts), rel=1e-12)


def test_lines_are_those_of_siegel_as_scipy_has_them(either_way: None) -> None:
    rng = np.random.default_rng(7)
    n, reach = 40, 5
    time = frozen(np.cumsum(rng.uniform(0.5, 2.0, n)))
    value = frozen(rng.standard_t(2, (n, 2)))
    piece = frozen((np.arange(n) >= 22).astype(np.int64))
    found = line_predictions(time, value, piece, frozen(np.arange(n)), reach)
    for i in range(n):
        near = (np.abs(np.arange(n) - i) <= reach) & (piece == piece[i]) & (np.arange(n) != i)
        before, after = near & (np.arange(n) < i), near & (np.arange(n) > i)
        for side, points in enumerate((before, after, near)):
            enough = points.sum() >= 3 and (side < 2 or min(before.sum(), after.sum()) >= 2)
            for axis in range(2):
                answer = found[i, side, axis]
                if not enough:
                    assert np.isnan(answer)
                    continue
                line = stats.siegelslopes(value[points, axis], time[points] - time[i])
                assert answer == pytest.approx(line.intercept, abs=1e-9)


def test_frames_at_one_time_have_a_line_through_their_median(either_way: None) -> None:
    time, piece = np.zeros(7), np.zeros(7, np.int64)
    value = np.stack([np.arange(7.0), np.zeros(7)], axis=1)
    found = line_predictions(time, value, piece, np.array([3]), 3)
    assert found[0].tolist() == [[1.0, 0.0], [5.0, 0.0], [3.0, 0.0]]
