"""How good registration is on a user's own frames: the verdict agrees with simulated truth."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from dask.base import compute
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner

from stillstack.assess import Assessment, DoseRow, assess
from stillstack.assess.gathering import gather
from stillstack.assess.halves import Division, divided_sums, register_spread
from stillstack.assess.ladder import next_factor, smallest_factor
from stillstack.assess.moving import moving_scene, signal_limit
from stillstack.assess.result import row_of
from stillstack.assess.thinning import thin
from stillstack.assess.trials import TRIAL_DTYPE, run_trials
from stillstack.cli import app
from stillstack.config import make_config
from stillstack.errors import InputError
from stillstack.kernels.registration import prepare_reference, register_frame
from stillstack.model import Status
from stillstack.plan import plan
from stillstack.reference import ReferenceMaker
from stillstack.simulation import (
    SCENES,
    SimulatedStack,
    beam_block_figure,
    powder_scene,
    simulate_stack,
)

SIDE = 128
SHAPE = (SIDE, SIDE)
N_FRAMES = 160
N_TRUTH = 200
N_TRIALS = 120
# Of the ratio of two rms errors over both axes: 1 / sqrt(4 x 120) and 1 / sqrt(4 x 200) in
# quadrature are 5.8 %, so that 20 % are more than three standard errors.
AGREES = 0.20
SYNCHRONOUS = functools.partial(compute, scheduler="synchronous")


def simulated(n_frames: int, scene: str, dose: float, seed: int = 5) -> SimulatedStack:
    return simulate_stack(
        n_frames, SHAPE, dose=dose, scene=scene, seed=seed, planted=False, drift_px=5.0
    )


def config_of(frames: NDArray[Any], folder: Path, **sections: Any) -> dict[str, Any]:
    """Config of frames behind the simulation's beam-block."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "frames.npy", frames)
    block = beam_block_figure(SHAPE, margin_px=3.0)
    return {
        "input": {"path": str(folder / "frames.npy")},
        "output": {"path": str(folder / "out.zarr")},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
        **sections,
    }


def true_errors(config: dict[str, Any], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """What registration really does on the frames of a config: errors about their mean, px."""
    made = plan(make_config(config))
    maker = ReferenceMaker(
        made.source, made.config.reference, made.valid, made.reference_valid, made.settings
    )
    reference = maker.prepared(maker.make())
    found = [register_frame(made.source.read(i, i + 1)[0], reference) for i in range(len(shifts))]
    good = [i for i, one in enumerate(found) if one.good]
    error = np.array([found[i].shift for i in good]) - shifts[good]
    return np.asarray(error - error.mean(axis=0))


def rms_of(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def row_at(found: Assessment, factor: float) -> DoseRow:
    return next(row for row in found.doses if row.factor == factor)


# ------------------------------------------------------------------ the verdict


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Assessment]:
    """Assessments at 24 counts a pixel, made when first asked for."""
    folder = tmp_path_factory.mktemp("verdicts")

    class Made(dict[str, Assessment]):
        def __missing__(self, scene: str) -> Assessment:
            frames = simulated(N_FRAMES, scene, 24.0).read(0, N_FRAMES)
            self[scene] = assess(config_of(frames, folder / scene), trials=N_TRIALS)
            return self[scene]

    return Made()


@pytest.mark.parametrize("factor", [1.0, 0.25, 1 / 16])
@pytest.mark.parametrize("scene", SCENES)
def test_the_verdict_agrees_with_simulated_truth(
    scene: str, factor: float, verdicts: dict[str, Assessment], tmp_path: Path
) -> None:
    stack = simulated(N_TRUTH, scene, 24.0 * factor)
    error = true_errors(config_of(stack.read(0, N_TRUTH), tmp_path), stack.shift)
    row = row_at(verdicts[scene], factor)
    assert len(error) >= 0.99 * N_TRUTH
    assert row.good >= 0.99
    assert rms_of(row.rms) == pytest.approx(rms_of(error), rel=AGREES)
    assert np.allclose(row.rms, error.std(axis=0), rtol=AGREES * np.sqrt(2))
    # error bars are right in the trials as they are in a run
    assert rms_of(row.pull) == pytest.approx(1.0, abs=0.2)
    assert verdicts[scene].notes == ()


def test_the_verdict_says_it_in_a_sentence(verdicts: dict[str, Assessment]) -> None:
    found = verdicts["powder"]
    assert found.own.dose == pytest.approx(24.0, rel=0.03)
    assert found.sentence.startswith("This data supports 0.0")
    assert "counts a pixel" in found.sentence
    assert found.smallest_dose is not None
    assert found.smallest_dose < found.own.dose / 16
    assert [row.dose for row in found.doses] == sorted((r.dose for r in found.doses), reverse=True)


def test_error_falls_with_the_root_of_the_dose(verdicts: dict[str, Assessment]) -> None:
    found = verdicts["textured"]
    for more, less in ((4.0, 1.0), (1.0, 0.25)):
        ratio = rms_of(row_at(found, less).rms) / rms_of(row_at(found, more).rms)
        # two rms of 400 values: 5 %, and a little more than 2 where the reference is noisier
        assert 1.7 < ratio < 2.5


def test_one_frame_as_the_reference_costs_what_it_costs(tmp_path: Path) -> None:
    stack = simulated(N_TRUTH, "powder", 20.0)
    config = config_of(stack.read(0, N_TRUTH), tmp_path, reference={"kind": "first"})
    found = assess(config, trials=N_TRIALS)
    assert found.n_reference == 1
    error = true_errors(config, stack.shift)[1:]
    assert rms_of(found.own.rms) == pytest.approx(rms_of(error), rel=AGREES)


def test_a_detector_with_gain_and_read_noise_is_assessed_as_it_is(tmp_path: Path) -> None:
    stack = simulated(N_TRUTH, "textured", 10.0)
    rng = np.random.default_rng(3)
    frames = stack.read(0, N_TRUTH) * 12.0 + rng.normal(0.0, 20.0, stack.shape)
    config = config_of(
        frames.astype(np.float32),
        tmp_path,
        registration={"max_shift_px": 16, "read_noise": 20.0},
    )
    found = assess(config, trials=N_TRIALS)
    assert found.gain == pytest.approx(12.0, rel=0.1)
    assert rms_of(found.own.rms) == pytest.approx(
        rms_of(true_errors(config, stack.shift)), rel=AGREES
    )


def test_a_dose_that_cannot_begin_a_reference_says_so(
    verdicts: dict[str, Assessment], tmp_path: Path
) -> None:
    lowest = verdicts["textured"].doses[-1]
    assert verdicts["textured"].own.begins
    assert not lowest.begins
    stack = simulated(40, "textured", lowest.dose)
    with pytest.raises(InputError, match="no structure above its noise"):
        true_errors(config_of(stack.read(0, 40), tmp_path), stack.shift)


def test_a_beam_block_that_is_not_excluded_is_noticed(tmp_path: Path) -> None:
    frames = simulated(64, "powder", 24.0).read(0, 64)
    config = config_of(frames, tmp_path, valid={"frames": {"exclude": []}})
    found = assess(config, trials=40)
    assert any("neither this scene nor photon noise" in note for note in found.notes)


# ------------------------------------------------------------------ what it is made of


def test_thinned_counts_are_poisson_and_independent() -> None:
    rng = np.random.default_rng(2)
    n = 200_000
    counts = rng.poisson(6.0, n)
    part = thin(counts, 0.3, (1.0, 0.0), rng)
    rest = counts - part
    np.testing.assert_array_equal(part, np.rint(part))
    for values, mean in ((part, 1.8), (rest, 4.2)):
        assert values.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / n))
        assert values.var() == pytest.approx(mean, rel=5 * np.sqrt(3 / n))
    assert abs(np.corrcoef(part, rest)[0, 1]) < 5 / np.sqrt(n)
    # independent, not only uncorrelated: the squares know nothing of each other either
    assert abs(np.corrcoef((part - 1.8) ** 2, (rest - 4.2) ** 2)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_amplified_and_noisy_counts_are_parted_without_correlation(share: float) -> None:
    rng = np.random.default_rng(4)
    n, gain, read_noise, mean = 200_000, 37.3, 55.0, 9.0
    counts = gain * rng.poisson(mean, n) + rng.normal(0.0, read_noise, n)
    part = thin(counts, share, (gain, read_noise), rng)
    rest = counts - part
    assert part.mean() == pytest.approx(share * gain * mean, rel=0.01)
    # noise of a part: that of its events, and the same part of the read noise's variance
    variance = share * (gain**2 * mean + read_noise**2)
    assert part.var() == pytest.approx(variance, rel=0.02)
    assert abs(np.corrcoef(part, rest)[0, 1]) < 0.01


@given(
    counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_no_event_is_lost_or_made(counts: list[int], share: float, seed: int) -> None:
    whole = np.array([*counts, np.nan])
    part = thin(whole, share, (1.0, 0.0), np.random.default_rng(seed))
    assert np.isnan(part[-1])
    assert ((part[:-1] >= 0) & (part[:-1] <= whole[:-1])).all()
    np.testing.assert_array_equal(part[:-1], np.rint(part[:-1]))


def test_reference_and_scene_share_no_noise(tmp_path: Path) -> None:
    stack = simulated(48, "powder", 12.0)
    made = plan(make_config(config_of(stack.read(0, 48), tmp_path)))
    reference = prepare_reference(
        stack.scene.expected().astype("f4"), made.valid, max_shift_px=16, n_frames=1000
    )
    numbers = tuple(range(48))
    table = register_spread(made.source, numbers, reference, SYNCHRONOUS)
    halves = divided_sums(
        made.source, numbers, table, reference, Division(0.4, (1.0, 0.0), 1), compute=SYNCHRONOUS
    )
    inner = (halves.scene_count == 48) & (halves.reference_count == 48)
    inner &= ndimage.binary_erosion(inner, iterations=6)
    truth = stack.scene.expected()[inner]
    one = halves.reference_part[inner] / (48 * 0.4) - truth
    other = halves.scene_part[inner] / (48 * 0.6) - truth
    scale = np.sqrt(truth / 48)
    assert (one / scale).std() > 1.0  # noise there is
    # Interpolation correlates neighbours: about half of the values are independent.
    limit = 5.0 / np.sqrt(inner.sum() / 2)
    assert abs(np.mean(one / scale * other / scale)) < limit * (one / scale).std() ** 2


def test_a_moved_scene_is_the_analytic_one() -> None:
    scene = powder_scene(SHAPE, 60.0, ring_width_px=2.0)
    known = np.ones(SHAPE, bool)
    known[40:44, 70:90] = False
    image = scene.expected()
    moving = moving_scene(np.where(known, image, np.nan), known, image, 8.0)
    for shift in ((0.0, 0.0), (3.37, -2.61), (-0.5, 0.5)):
        expected = scene.expected(shift)
        far = np.zeros(SHAPE, bool)  # from the hole and from what comes in at the borders
        far[16:-16, 16:-16] = True
        far[26:60, 52:108] = False
        error = (moving.expected(np.array(shift)) - expected)[far]
        # a small part of the noise that one frame has
        assert rms_of(error) < 0.02 * np.sqrt(60.0)


def test_the_finest_detail_is_found_beside_borders_and_holes() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:192, :192]
    wave = 40.0 + 15.0 * np.cos(2 * np.pi * (0.11 * x + 0.05 * y)) + 0.3 * x
    known = np.ones((192, 192), bool)
    known[:100, 90:100] = False
    one, other = (np.where(known, rng.poisson(wave), 0.0) for _ in range(2))
    highest = np.hypot(0.11, 0.05)
    assert highest <= signal_limit(one, other, known) < highest + 0.03
    # one sum is no measure of itself: all its noise agrees
    assert signal_limit(one, one + 1e-9 * other, known) > 0.4


def test_lone_dead_pixels_do_not_hide_the_scene() -> None:
    rng = np.random.default_rng(1)
    known = rng.random(SHAPE) > 0.02
    one, other = (rng.poisson(powder_scene(SHAPE).expected()).astype(float) for _ in range(2))
    assert signal_limit(one, other, known) < 0.2


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Any:
    frames = simulated(40, "crystal", 24.0).read(0, 40)
    made = plan(make_config(config_of(frames, tmp_path_factory.mktemp("material"))))
    return gather(made, 0, SYNCHRONOUS)


def test_a_trial_is_the_same_whoever_does_it(material: Any) -> None:
    reference = material.reference_at(1.0)
    whole = run_trials(material.bench, reference, 1.0, 0, range(6))
    parts = [run_trials(material.bench, reference, 1.0, 0, range(i, i + 2)) for i in (4, 0, 2)]
    np.testing.assert_array_equal(whole, np.concatenate([parts[1], parts[2], parts[0]]))
    again = run_trials(material.bench, reference, 1.0, 1, range(6))
    np.testing.assert_array_equal(again["truth"], whole["truth"])
    assert (again["shift"] != whole["shift"]).any()


def test_the_reference_at_less_dose_has_the_noise_of_less_dose(material: Any) -> None:
    inner = ndimage.binary_erosion(material.valid, iterations=3)
    quarter = material.reference_at(0.25)
    change = quarter.image[inner] / 0.25 - material.image[inner]
    # mean of n frames of a quarter of the dose, less what the mean of n frames has already
    expected = material.image[inner].mean() / material.n_reference * (4.0 - 1.0)
    assert np.mean(change**2) == pytest.approx(expected, rel=0.1)
    assert material.reference_at(4.0).settings.n_frames == material.n_reference / 4


def test_what_stands_still_stays_where_it_is(material: Any) -> None:
    from stillstack.assess.trials import draw_frame

    rng = np.random.default_rng(0)
    frames = [draw_frame(material.bench, np.array(s), 1.0, rng) for s in ((0, 0), (4.4, -3.7))]
    behind = ~material.bench.valid
    shadow = [float(frame[behind].mean()) for frame in frames]
    assert shadow[0] == pytest.approx(shadow[1], rel=0.05)
    assert frames[0].dtype == np.uint16


@given(threshold=st.floats(1e-6, 10.0))
def test_the_ladder_ends_close_to_where_frames_stop_landing(threshold: float) -> None:
    landed: dict[float, float] = {}
    while (factor := next_factor(landed, 4.0)) is not None:
        assert factor not in landed
        landed[factor] = 1.0 if factor >= threshold else 0.5
        assert len(landed) < 16
    smallest = smallest_factor(landed)
    assert {1.0, 0.25, 1 / 16, 4.0} <= set(landed)
    if threshold > 4.0:
        assert smallest is None
    elif threshold > 4.0**-8:
        assert smallest is not None
        assert threshold <= smallest <= 1.5 * threshold


def test_rows_are_the_plain_statistics_of_the_trials() -> None:
    trials = np.zeros(5, TRIAL_DTYPE)
    trials["shift"] = [[1.1, 0], [0.9, 0], [1.1, 0.2], [0.9, -0.2], [np.nan, np.nan]]
    trials["truth"][:4] = [1.0, 0.0]
    trials["shift_std"] = [0.1, 0.2]
    trials["status"][4] = Status.LOW_NCC
    row = row_of(1.0, 10.0, trials, 5)
    assert (row.good, row.landed) == (0.8, 0.8)
    assert row.rejected == (("low_ncc", 0.2),)
    assert row.bias == pytest.approx((0.0, 0.0))
    assert row.rms == pytest.approx((np.sqrt(0.04 / 3), np.sqrt(0.08 / 3)))
    assert row.predicted == pytest.approx((0.1, 0.2))
    assert row.pull == pytest.approx((np.sqrt(4 / 3), np.sqrt(2 / 3)))
    trials["shift"][0, 0] = 3.0
    assert row_of(1.0, 10.0, trials, 5).landed == pytest.approx(0.6)
    nothing = row_of(1.0, 10.0, trials[:0], 5)
    assert nothing.good == 0.0
    assert np.isnan(nothing.rms).all()


# ------------------------------------------------------------------ faces and faults


def test_the_assessment_is_the_same_on_every_engine(engine: str, tmp_path: Path) -> None:
    frames = simulated(24, "crystal", 24.0).read(0, 24)
    found = assess(config_of(frames, tmp_path), trials=4)
    expected = assess(config_of(frames, tmp_path), trials=4, compute=SYNCHRONOUS)
    assert found.as_dict() == expected.as_dict()


def test_the_table_is_a_dataset_with_units(verdicts: dict[str, Assessment]) -> None:
    found = verdicts["powder"]
    table = found.to_dataset()
    assert table["rms"].dims == ("dose", "axis")
    assert table["rms"].attrs["units"] == "pixel"
    assert (np.diff(table["dose"]) > 0).all()
    np.testing.assert_array_equal(table["rms"].sel(dose=found.own.dose), found.own.rms)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_and_draws(tmp_path: Path, as_json: bool) -> None:
    frames = simulated(24, "crystal", 24.0).read(0, 24)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config_of(frames, tmp_path)))
    done = CliRunner().invoke(
        app, ["assess", str(path), "--trials", "8", *(["--json"] if as_json else [])]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run.assess.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out.zarr").exists()
    if as_json:
        told = json.loads(done.stdout)
        assert told["sentence"].startswith("This data supports")
        assert told["doses"][0]["n_trials"] == 8
    else:
        assert "This data supports" in done.stdout
        assert "still land within 1 px" in done.stdout


def test_trials_become_fewer_where_time_is_short(tmp_path: Path) -> None:
    frames = simulated(24, "crystal", 24.0).read(0, 24)
    told: list[tuple[int, int]] = []
    found = assess(
        config_of(frames, tmp_path),
        seconds=1e-6,
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert found.own.n_trials == 120
    assert row_at(found, 0.25).n_trials == 40
    assert told[-1][0] == 120 + 40 * (len(found.doses) - 1)
    assert all(done <= total for done, total in told)


def _faulty(frames: NDArray[Any], folder: Path, **sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        assess(config_of(frames, folder, **sections), trials=4)
    return str(caught.value)


def test_faults_say_what_to_mend(tmp_path: Path) -> None:
    stack = simulated(6, "powder", 24.0)
    frames = stack.read(0, 6)
    with pytest.raises(InputError, match="1 trials were asked for"):
        assess(config_of(frames, tmp_path), trials=1)
    assert "blank" in _faulty(np.zeros_like(frames), tmp_path / "blank")
    alone = _faulty(frames[:1], tmp_path / "one", reference={"kind": "first"})
    assert "no frame beside the reference" in alone
    image = tmp_path / "other.npy"
    np.save(image, np.random.default_rng(0).poisson(20.0, SHAPE).astype("f4") * 30)
    unlike = _faulty(frames, tmp_path / "unlike", reference={"kind": "image", "path": str(image)})
    assert "None of the 6 frames" in unlike or "no structure above its noise" in unlike
    negative = frames.astype("f4") - 2.0 * frames.mean()
    assert "mean of -" in _faulty(negative, tmp_path / "negative")


def test_frames_that_are_not_good_are_left_out_and_told(tmp_path: Path) -> None:
    stack = simulate_stack(40, SHAPE, seed=3, planted={"blank": (7,), "noise": (20,)})
    found = assess(config_of(stack.read(0, 40), tmp_path), trials=8)
    assert found.n_frames == 38
    assert "2 of 40 frames are not good" in found.notes[0]


def test_frames_that_the_config_leaves_out_do_not_enter(tmp_path: Path) -> None:
    frames = simulated(24, "crystal", 24.0).read(0, 24)
    frames[:8] *= 3  # of another exposure
    kept = {"exclude": {"frames": ["0:8"]}}
    found = assess(config_of(frames, tmp_path, **kept), trials=4)
    assert found.n_frames == 16
    assert found.own.dose == pytest.approx(24.0, rel=0.05)
    single = {**kept, "reference": {"kind": "first"}}
    assert assess(config_of(frames, tmp_path, **single), trials=4).n_frames == 15


# ------------------------------------------------------------------ real frames


def test_two_real_frames_can_be_assessed(real_frames: Path, tmp_path: Path) -> None:
    found = assess(
        {
            "input": {"path": str(real_frames / "chromium_*.tif")},
            "output": {"path": str(tmp_path / "out.zarr")},
            "valid": {"frames": {"exclude": [{"rectangle": [0, "61%", "46%", "61%"]}]}},
            "reference": {"kind": "first"},
            "registration": {"max_shift_px": 24},
        },
        trials=16,
    )
    assert found.own.good > 0.9
    assert max(found.own.rms) < 0.3
    assert "how frames drift is hardly known" in " ".join(found.notes)


@pytest.mark.slow
def test_the_verdict_on_a_real_pattern_agrees_with_what_happens_to_it(
    real_frames: Path, tmp_path: Path
) -> None:
    """Graphite behind its own beam-block, moved by known shifts with photon noise of its own."""
    pattern = tifffile.imread(real_frames / "graphite.tif").astype(float)[256:768, 256:768] / 8
    valid = tifffile.imread(real_frames / "graphite_valid.tif")[256:768, 256:768] > 0
    scene = ndimage.gaussian_filter(pattern, 1.0)
    rng = np.random.default_rng(7)
    shifts = np.cumsum(rng.normal(0.0, 0.3, (100, 2)), axis=0)
    expected = [np.where(valid, ndimage.shift(scene, -s, order=5), pattern) for s in shifts]
    np.save(tmp_path / "frames.npy", rng.poisson(np.clip(expected, 0, None)).astype(np.uint16))
    border = int(np.abs(shifts).max()) + 3
    inside = np.zeros_like(valid)
    inside[border:-border, border:-border] = valid[border:-border, border:-border]
    tifffile.imwrite(tmp_path / "valid.tif", (255 * inside).astype(np.uint8))
    config = {
        "input": {"path": str(tmp_path / "frames.npy")},
        "output": {"path": str(tmp_path / "out.zarr")},
        "valid": {"frames": {"image": str(tmp_path / "valid.tif")}},
        "registration": {"max_shift_px": 24},
    }
    found = assess(config, trials=N_TRIALS)
    # 100 frames and 200 trials, two axes: 6 %
    assert rms_of(found.own.rms) == pytest.approx(rms_of(true_errors(config, shifts)), rel=0.25)
