"""Valid pixels: figures, values, images, defects, their sense, and a beam-block proposed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy import ndimage

from arrays import frozen
from stillstack.config import make_config
from stillstack.config.valid import Figure, ValidConfig
from stillstack.errors import InputError
from stillstack.simulation import (
    Scene,
    SimulatedStack,
    beam_block,
    crystal_scene,
    powder_scene,
    simulate_stack,
    textured_scene,
)
from stillstack.valid import (
    check_valid,
    circle,
    defect_pixels,
    describe_region,
    figures,
    polygon,
    propose_beam_block,
    rectangle,
    valid_from_config,
)

Inside = NDArray[np.bool_]
SHAPE = (17, 23)
SCENES: dict[str, Callable[..., Scene]] = {
    "powder": powder_scene,
    "crystal": crystal_scene,
    "textured": textured_scene,
}
lengths = st.integers(-5, 30)


def figure(**shape: Any) -> Figure:
    return Figure.model_validate(shape)


# --- figures ------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_rectangle_is_a_slice(y0: int, y1: int, x0: int, x1: int) -> None:
    expected = np.zeros(SHAPE, bool)
    expected[y0:y1, x0:x1] = True
    assert np.array_equal(rectangle(SHAPE, y0, y1, x0, x1), expected)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=4).map(sorted),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_rectangles_that_share_edges_tile_the_frame(
    cuts: list[float], shape: tuple[int, int]
) -> None:
    edges = ["0%", *(f"{cut}%" for cut in cuts), "100%"]
    covered = sum(
        rectangle(shape, y0, y1, x0, x1).astype(int)
        for y0, y1 in itertools.pairwise(edges)
        for x0, x1 in itertools.pairwise(edges)
    )
    assert np.array_equal(covered, np.ones(shape, int))


def test_every_whole_percentage_of_100_rows_is_that_row() -> None:
    for row in range(100):
        assert rectangle((100, 1), f"{row}%", "100%", 0, 1).sum() == 100 - row


def test_negative_coordinates_lie_outside_the_frame() -> None:
    assert not rectangle(SHAPE, -3, 0, 0, 5).any()
    assert circle(SHAPE, -2, 0, 3).sum() == len([(0, 0), (0, 1), (0, 2), (1, 0)])


@given(lengths, lengths, st.integers(0, 12))
def test_a_circle_holds_the_centres_within_its_radius(y: int, x: int, radius: int) -> None:
    inside = circle(SHAPE, y, x, radius)
    for i in range(SHAPE[0]):
        for j in range(SHAPE[1]):
            assert inside[i, j] == ((i - y) ** 2 + (j - x) ** 2 <= radius**2)


def test_percentages_of_points_count_from_the_outer_edges() -> None:
    assert np.array_equal(circle((5, 9), "50%", "50%", "40%"), circle((5, 9), 2, 4, 2))
    whole = [("0%", "0%"), ("0%", "100%"), ("100%", "100%"), ("100%", "0%")]
    assert polygon(SHAPE, whole).all()


@settings(max_examples=200)
@given(st.lists(st.tuples(lengths, lengths), min_size=3, max_size=7))
def test_a_polygon_agrees_with_matplotlib_away_from_its_outline(
    corners: list[tuple[int, int]],
) -> None:
    # vertices at odd fractions, so that no centre lies on the outline within rounding
    vertices = [(y + 0.137 + 0.001 * x, x + 0.071 - 0.001 * y) for y, x in corners]
    outline = Outline([*vertices, vertices[0]], closed=True)
    rows, columns = np.indices(SHAPE)
    points = np.stack([rows.ravel(), columns.ravel()], axis=1)
    winding = outline.contains_points(points).reshape(SHAPE)
    inside = polygon(SHAPE, vertices)
    near = np.zeros(SHAPE, bool)
    for (y0, x0), (y1, x1) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        length = max(np.hypot(y1 - y0, x1 - x0), 1e-9)
        off = np.abs((y1 - y0) * (columns - x0) - (x1 - x0) * (rows - y0)) / length
        near |= off < 1e-6
    assert np.array_equal(inside[~near], winding[~near])


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 26), st.integers(0, 26))
def test_an_upright_polygon_is_the_rectangle(y0: int, y1: int, x0: int, x1: int) -> None:
    y0, y1, x0, x1 = min(y0, y1), max(y0, y1), min(x0, x1), max(x0, x1)
    corners = [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
    for vertices in (corners, corners[::-1], corners[2:] + corners[:2]):
        assert np.array_equal(polygon(SHAPE, vertices), rectangle(SHAPE, y0, y1, x0, x1))


@given(st.lists(st.tuples(lengths, lengths), min_size=3, max_size=3))
@example([(0, 0), (10, 20), (16, 3)])
def test_triangles_with_a_common_corner_share_no_pixel(
    corners: list[tuple[int, int]],
) -> None:
    """A triangle cut from an inner point: the parts cover it once, whatever lies on the cuts."""
    centre = (sum(y for y, _ in corners) / 3, sum(x for _, x in corners) / 3)
    parts = np.zeros(SHAPE, int)
    for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
        parts += polygon(SHAPE, [centre, one, other])
    whole = polygon(SHAPE, corners)
    assert np.array_equal(parts % 2, whole)


def test_a_figure_that_covers_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"valid.frames.exclude\[1\] \(circle\) covers no pixel"):
        figures(
            (10, 20),
            [figure(rectangle=[0, 1, 0, 1]), figure(circle=[30, 5, 3])],
            "valid.frames.exclude",
        )


# --- from a config ------------------------------------------------------------------------------


def test_rules_combine_so_that_every_one_can_reject() -> None:
    shape = (8, 10)
    image = np.full(shape, 255)
    image[7] = 0
    sample = np.full((5, *shape), 10.0)
    sample[:, 0, 0] = 99
    sample[:, 0, 1] = 1
    sample[:, 0, 2] = 42
    sample[:3, 0, 3] = np.nan
    sample[:2, 0, 4] = 99  # two of five frames: for the check of each frame
    spec = ValidConfig.model_validate(
        {
            "include": [{"rectangle": [0, 10, 0, "50%"]}, {"rectangle": [0, 2, 0, 10]}],
            "exclude": [{"rectangle": [3, 5, 0, 2]}, {"circle": [2, 2, 0.5]}],
            "image": "valid.tif",
            "below": 5,
            "above": 50,
            "equal": [42],
        }
    )
    asked = []

    def read_image(path: str) -> NDArray[Any]:
        asked.append(path)
        return image

    valid = valid_from_config(spec, shape, read_image, frozen(sample))
    expected = np.zeros(shape, bool)
    expected[:7, :5] = True
    expected[:2] = True
    expected[3:5, :2] = False
    expected[2, 2] = False
    expected[0, :4] = False
    assert np.array_equal(valid, expected)
    assert asked == ["valid.tif"]


def test_without_rules_every_pixel_counts() -> None:
    assert valid_from_config(ValidConfig(), (4, 5)).all()


def test_limits_themselves_are_valid() -> None:
    spec = ValidConfig(below=5, above=7)
    valid = valid_from_config(spec, (1, 4), sample=np.array([[4, 5, 7, 8]]))
    assert valid.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("shape", [(9, 9), (8, 8, 3)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    spec = ValidConfig(image="m.tif")
    with pytest.raises(InputError, match=r"m.tif has .* pixels, the frames 8 x 8"):
        valid_from_config(spec, (8, 8), lambda _: np.ones(shape))


def test_a_pixel_of_the_image_that_is_not_a_number_is_not_valid() -> None:
    image = np.array([[[1.0, np.nan, 0.0]]])
    valid = valid_from_config(ValidConfig(image="m.tif"), (1, 3), lambda _: image)
    assert valid.tolist() == [[True, False, False]]


def test_defects_need_a_sample() -> None:
    with pytest.raises(InputError, match=r"valid.reference.defects .* no sample"):
        valid_from_config(ValidConfig(defects=True), (8, 8), where="valid.reference")


def test_defects_are_excluded_where_asked_for() -> None:
    sample = np.random.default_rng(0).poisson(40, (8, 30, 40))
    sample[:, 10, 20] = 800
    sample[:, 4, 7] = 0
    valid = valid_from_config(ValidConfig(defects=True), (30, 40), sample=sample)
    assert np.argwhere(~valid).tolist() == [[4, 7], [10, 20]]


# --- defects ------------------------------------------------------------------------------------


def spread(stack: SimulatedStack, number: int) -> NDArray[np.uint16]:
    frames = np.linspace(0, len(stack) - 1, number).astype(int)
    return np.stack([stack.frame(int(index)) for index in frames])


def scene_of(name: str, shape: tuple[int, int], dose: float) -> Scene:
    if name == "sharp crystal":
        return crystal_scene(shape, dose, spot_sigma_px=1.5, seed=2)
    if name == "sharp powder":
        return powder_scene(shape, dose, ring_width_px=1.5, seed=2)
    return SCENES[name](shape, dose, seed=2)


@pytest.mark.parametrize("number", [8, 64])
@pytest.mark.parametrize("dose", [5.0, 60.0, 1000.0])
@pytest.mark.parametrize("name", ["powder", "crystal", "sharp powder", "sharp crystal"])
def test_planted_defects_are_found_and_spots_are_not(name: str, dose: float, number: int) -> None:
    shape = (240, 256)
    scene = scene_of(name, shape, dose)
    planted = {"blank": [3], "struck": [0, 10, 20], "saturated": [63]} if number == 64 else False
    stack = simulate_stack(
        number, shape, scene=scene, seed=5, planted=planted, saturation=65535, dark=dose / 12
    )
    sample = spread(stack, number).astype(np.uint16)
    expected = np.mean([scene.expected(s) for s in stack.shift if np.isfinite(s).all()], axis=0)
    valid = stack.valid
    seen = expected * number
    rng = np.random.default_rng(1)
    # A dead pixel among neighbours that see next to nothing cannot be told from them: 25 counts in
    # all frames together.
    candidates = np.flatnonzero(valid & (seen > 25))
    defects = rng.choice(candidates, 2 * round(0.001 * valid.sum()), replace=False)
    hot, dead = np.split(defects, 2)
    flat = sample.reshape(number, -1)
    # Ten times the brightest neighbour, so that it is ten times its neighbours wherever it is.
    brightest = np.max(
        [np.roll(expected, s, (0, 1)) for s in ((1, 0), (-1, 0), (0, 1), (0, -1))], 0
    )
    flat[:, hot] = np.minimum(rng.poisson(10 * brightest.ravel()[hot], (number, hot.size)), 65535)
    flat[:, dead] = 0
    found = defect_pixels(frozen(sample), frozen(valid)).ravel()
    innocent = np.ones(found.size, bool)
    innocent[defects] = False
    assert found[hot].mean() >= 0.99
    assert found[dead].mean() >= 0.99
    assert (found & innocent).sum() < 1e-4 * valid.sum()
    assert not found[~valid.ravel()].any()


def test_pairs_lines_and_stuck_pixels_are_found() -> None:
    rng = np.random.default_rng(3)
    sample = rng.poisson(80, (16, 64, 80)).astype(np.uint16)
    planted = np.zeros((64, 80), bool)
    planted[10, 20:22] = planted[30, 40] = planted[0, 0] = planted[63, 33] = True
    planted[:, 70] = True
    sample[:, planted] = 900
    dead_row = np.zeros_like(planted)
    dead_row[50, :60] = True
    sample[:, dead_row] = 0
    sample[:, 20, 30] = 80  # stuck at what its neighbours see on average
    expected = planted | dead_row
    expected[20, 30] = True
    found = defect_pixels(sample)
    assert np.array_equal(found, expected)


def test_a_pedestal_and_a_gain_change_nothing() -> None:
    stack = simulate_stack(16, (128, 128), scene="crystal", dose=40, seed=1, planted=False)
    sample = spread(stack, 16).astype(np.float32)
    sample[:, 100, 30] = 900
    sample[:, 20, 90] = 0
    found = defect_pixels(sample, stack.valid)
    assert found[100, 30]
    assert found[20, 90]
    assert np.array_equal(defect_pixels(3.5 * sample + 1000, stack.valid), found)


def test_a_pixel_that_was_struck_once_is_no_defect() -> None:
    sample = np.random.default_rng(0).poisson(30, (12, 32, 32)).astype(np.float64)
    sample[4, 9, 9] = 30000
    sample[5, 20, 3] = np.nan
    assert not defect_pixels(sample).any()


@given(st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_invalid_pixels_have_no_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = rng.poisson(50, (8, 40, 40)).astype(float)
    sample[:, 12, 12] = 700
    valid = rng.random((40, 40)) > 0.2
    valid[12, 12] = True
    other = sample.copy()
    other[:, ~valid] = rng.choice([0.0, 1e6, np.nan, np.inf], (8, int((~valid).sum())))
    found = defect_pixels(sample, valid)
    assert found[12, 12]
    assert np.array_equal(defect_pixels(other, valid), found)


def test_a_single_image_shows_its_hot_pixels() -> None:
    image = np.random.default_rng(0).poisson(powder_scene((128, 128), 100).expected())
    image[40, 50] = 3000
    found = defect_pixels(image)
    assert found[40, 50]
    assert found.sum() <= 2


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_a_blank_sample_has_no_defects(value: float) -> None:
    assert not defect_pixels(np.full((8, 16, 16), value)).any()
    assert not defect_pixels(np.ones((8, 16, 16)), np.zeros((16, 16), bool)).any()


# --- the sense of valid -------------------------------------------------------------------------


def test_an_ordinary_valid_area_is_accepted() -> None:
    for name, make in SCENES.items():
        stack = simulate_stack(3, (128, 128), scene=make((128, 128)), planted=False)
        assert check_valid(stack.valid, stack.frame(0), name) == []


def test_no_valid_pixel_is_refused_always() -> None:
    nothing = np.zeros((8, 8), bool)
    for allow_small in (False, True):
        with pytest.raises(InputError, match=r"valid.frames leaves no valid pixel of 8 x 8"):
            check_valid(nothing, allow_small=allow_small)


def test_a_small_area_is_refused_unless_allowed() -> None:
    valid = rectangle((100, 100), 0, 30, 0, 30)
    with pytest.raises(InputError, match=r"leaves 9.00% of the pixels, under 10%.*allow_small"):
        check_valid(valid)
    (warning,) = check_valid(valid, allow_small=True)
    assert "9.00%" in warning
    assert check_valid(rectangle((100, 100), 0, 32, 0, 32)) == []


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("dose", [10.0, 60.0])
def test_an_inverted_beam_block_is_refused(name: str, dose: float) -> None:
    shape = (256, 256)
    stack = simulate_stack(1, shape, scene=name, dose=dose, planted=False, dark=0.5)
    inverted = ~stack.valid
    with pytest.raises(InputError, match=r"(under 10%|looks inverted).*mean is .* where valid"):
        check_valid(inverted, stack.frame(0))
    # a block so wide that its share alone raises no doubt
    wide = rectangle(shape, 0, 256, 60, 140)
    frame = np.where(wide, stack.frame(0) // 20, stack.frame(0))
    with pytest.raises(InputError, match="looks inverted"):
        check_valid(wide, frame)
    assert check_valid(~wide, frame) == []
    (warning,) = check_valid(wide, frame, allow_small=True)
    assert "looks inverted" in warning


def test_a_valid_area_round_a_bright_part_raises_no_doubt() -> None:
    frame = simulate_stack(1, (128, 128), planted=False).frame(0)
    assert check_valid(circle((128, 128), 63.5, 63.5, 40), frame) == []


def test_a_valid_area_that_leaves_out_the_bright_part_is_warned_of() -> None:
    stack = simulate_stack(1, (128, 128), planted=False)
    (warning,) = check_valid(~circle((128, 128), 63.5, 63.5, 52), stack.frame(0))
    assert "looks inverted" in warning


# --- a beam-block proposed ----------------------------------------------------------------------


def described(region: Inside, **options: float) -> tuple[Inside, list[Figure]]:
    section = yaml.safe_load(describe_region(region, **options))
    config = make_config({"input": {"path": "/a"}, "output": {"path": "/b"}, **section})
    these = list(config.valid.frames.exclude)
    return figures(region.shape, these), these


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("shape", [(300, 400), (900, 800)])
@pytest.mark.parametrize("dose", [10.0, 200.0])
def test_a_beam_block_is_proposed(name: str, shape: tuple[int, int], dose: float) -> None:
    stack = simulate_stack(40, shape, scene=name, dose=dose, planted=False, dark=0.3, seed=7)
    block = beam_block(shape) == 0
    sample = frozen(spread(stack, 3))
    for image in (sample, sample[0]):
        inside = propose_beam_block(image)
        assert (inside & block).sum() > 0.9 * block.sum()
        assert (inside & ~block).sum() < 0.15 * block.sum()
        drawn, _ = described(inside)
        assert (drawn & block).sum() > 0.99 * block.sum()


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("dose", [1.0, 10.0, 1000.0])
def test_where_there_is_no_beam_block_none_is_proposed(name: str, dose: float) -> None:
    for seed, shift in enumerate([(0.0, 0.0), (90.0, -60.0), (-200.0, 150.0)]):
        scene = SCENES[name]((300, 350), dose, seed=seed)
        image = np.random.default_rng(seed).poisson(scene.expected(shift))
        assert not propose_beam_block(image).any()


@pytest.mark.parametrize("value", [0.0, 50.0, np.nan])
def test_a_blank_image_has_no_beam_block(value: float) -> None:
    assert not propose_beam_block(np.full((64, 80), value)).any()


def test_a_dark_part_that_does_not_reach_the_border_is_not_proposed() -> None:
    image = np.full((200, 200), 50.0)
    image[80:120, 80:120] = 1.0
    assert not propose_beam_block(image).any()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("shape", [(512, 512), (300, 401)])
def test_a_description_covers_the_region_closely_with_few_vertices(
    shape: tuple[int, int], turns: int
) -> None:
    region = np.rot90(beam_block(shape) == 0, turns)
    drawn, these = described(region)
    assert (drawn & region).sum() >= 0.99 * region.sum()
    assert (drawn & ~region).sum() <= 0.3 * region.sum()
    assert len(these) == 1
    assert len(these[0].polygon or ()) <= 24


@given(st.integers(0, 60), st.integers(5, 40), st.integers(0, 60), st.integers(5, 40))
def test_a_rectangle_is_described_as_one(y: int, height: int, x: int, width: int) -> None:
    region = rectangle((100, 100), y, y + height, x, x + width)
    drawn, these = described(region, margin_px=0)
    assert np.array_equal(drawn, region)
    assert these[0].rectangle == (y, y + height, x, x + width)


@settings(deadline=None, max_examples=30)
@given(st.floats(-1, 1), st.floats(8, 20), st.floats(0.3, 0.9), st.booleans())
def test_slanted_rods_are_described_closely(
    slope: float, half_width: float, reach: float, turned: bool
) -> None:
    rows, columns = np.indices((256, 256))
    region = np.abs(columns - 128 - slope * (rows - 100)) < half_width
    region &= rows < reach * 256
    region = region.T if turned else region
    drawn, _ = described(region, margin_px=2)
    assert (drawn & region).sum() >= 0.99 * region.sum()
    # margin, tolerance of the outline, and whole-pixel vertices
    assert not drawn[ndimage.distance_transform_edt(~region) > 2 + 1.6 + 1.5].any()


def test_several_regions_are_several_figures_and_none_is_no_text() -> None:
    region = rectangle((80, 80), 0, 30, 10, 20) | rectangle((80, 80), 50, 80, 60, 70)
    drawn, these = described(region)
    assert len(these) == 2
    assert drawn[region].all()
    assert describe_region(np.zeros((8, 8), bool)) == ""


# --- real frames --------------------------------------------------------------------------------


def test_the_chromium_beam_block_is_proposed(real_frames: Path) -> None:
    image = tifffile.imread(real_frames / "chromium_1.tif")
    inside = propose_beam_block(image)
    known = rectangle(image.shape, "0%", "61%", "46%", "61%")
    assert not (inside & ~known).sum() > 0.02 * inside.sum()
    assert image[inside].mean() < 0.2 * image[~inside].mean()
    ys, xs = np.nonzero(inside)
    assert ys.min() == 0
    assert 0.48 * image.shape[0] < ys.max() < 0.61 * image.shape[0]
    assert 15 < np.ptp(xs) < 40
    drawn, these = described(inside)
    assert len(these) == 1
    assert (drawn & inside).sum() >= 0.99 * inside.sum()
    assert (drawn & ~inside).sum() <= 0.3 * inside.sum()


def test_the_graphite_beam_block_is_proposed(real_frames: Path) -> None:
    image = tifffile.imread(real_frames / "graphite.tif")
    valid = tifffile.imread(real_frames / "graphite_valid.tif") > 0
    inside = propose_beam_block(image)
    rod = rectangle(valid.shape, 0, 630, 450, 565) & ~valid
    assert (inside & rod).sum() > 0.5 * rod.sum()
    assert (inside & valid).sum() < 0.02 * inside.sum()
    drawn, these = described(inside)
    assert (drawn & inside).sum() >= 0.99 * inside.sum()
    assert (drawn & ~inside).sum() <= 0.3 * inside.sum()
    assert sum(len(each.polygon or ()) for each in these) <= 24


def test_the_authors_valid_image_is_accepted_and_its_inverse_refused(real_frames: Path) -> None:
    image = tifffile.imread(real_frames / "graphite.tif")
    marked = tifffile.imread(real_frames / "graphite_valid.tif")
    spec = ValidConfig(image="graphite_valid.tif")
    valid = valid_from_config(spec, image.shape, lambda _: marked, image)
    assert np.array_equal(valid, marked > 0)
    assert check_valid(valid, image) == []
    inverted = valid_from_config(spec, image.shape, lambda _: 255 - marked, image)
    with pytest.raises(InputError, match=r"leaves 8.54% .* 5.27 where valid and 10.1 where"):
        check_valid(inverted, image)
