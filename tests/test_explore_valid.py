"""Valid pixels that are drawn: what each gesture covers, and that a config holds exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import stillstack
from stillstack.config import load_config
from stillstack.config.valid import Figure, ValidConfig
from stillstack.errors import InputError
from stillstack.explore import edit_valid
from stillstack.explore.config_edit import ConfigFile
from stillstack.explore.drawing import (
    Drawing,
    brush_pixels,
    figure_at,
    figure_of,
    kind_of,
    moved_figure,
    outline_of,
    points_of,
)
from stillstack.sources import image_of
from stillstack.valid import circle, figures, valid_from_config

SHAPE = (40, 50)
TEXT = """\
# frames of Monday
input:
  path: frames.npy   # raw
output: {path: out.zarr}
valid:
  frames:
    # the beam-block
    exclude:
      - rectangle: [0, "61%", "46%", "61%"]
    above: 60000

  # of the reference
  reference:
    exclude:
      - circle: [20, 20, 4]

# how
registration: {max_shift_px: 8}
"""

coordinates = st.floats(-10, 60)
points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=6)
kinds = st.sampled_from(["rectangle", "circle", "polygon", "brush", "restore", "move"])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config with comments, whose frames are there."""
    frames = np.random.default_rng(1).poisson(40, (7, *SHAPE)).astype(np.uint16)
    np.save(tmp_path / "frames.npy", frames)
    path = tmp_path / "run.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def read_back(path: Path) -> NDArray[np.bool_]:
    """Static valid pixels of the frames, by the config's own reader."""
    spec = load_config(path).valid.frames
    return valid_from_config(spec, SHAPE, image_of)


@settings(max_examples=25)
@given(gestures=st.lists(st.tuples(kinds, points), max_size=6), keep=st.booleans())
def test_what_was_drawn_is_what_the_written_config_gives(
    gestures: list[tuple[str, list[tuple[float, float]]]],
    keep: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    np.save(folder / "frames.npy", np.ones((2, *SHAPE), np.uint16))
    path = folder / "run.yaml"
    path.write_text(TEXT, encoding="utf-8")
    editor = edit_valid(path)
    editor.radius_box.value = 3
    editor.keep_box.value = keep
    for kind, drawn in gestures:
        editor.draw(kind, drawn)
    wanted = editor.valid
    editor.save()
    assert np.array_equal(read_back(path), wanted)
    again = edit_valid(path)
    assert np.array_equal(again.valid, wanted)
    before, after = yaml.safe_load(TEXT), yaml.safe_load(path.read_text("utf-8"))
    assert after["valid"]["reference"] == before["valid"]["reference"]
    assert after["valid"]["frames"]["above"] == 60000
    for name in ("input", "output", "registration"):
        assert after[name] == before[name]


def test_every_line_outside_of_the_section_stays(config: Path) -> None:
    editor = edit_valid(config)
    editor.draw("rectangle", [(1.6, 2.2), (5.5, 9.9)])
    editor.save()
    text = config.read_text("utf-8")
    start, end = TEXT.index("valid:"), TEXT.index("# how")
    assert text.startswith(TEXT[:start])
    assert text.endswith(TEXT[end:])
    assert "- rectangle: [2, 6, 3, 10]" in text
    assert "- rectangle: [0, 61%, 46%, 61%]" in text
    assert config.with_name("run.yaml.bak").read_text("utf-8") == TEXT
    assert sorted(p.name for p in config.parent.iterdir()) == [
        "frames.npy",
        "run.yaml",
        "run.yaml.bak",
    ]


def test_saving_twice_keeps_both_versions_and_every_image(config: Path) -> None:
    editor = edit_valid(config)
    for number, row in enumerate((5.0, 30.0)):
        editor.draw("brush", [(row, 10.0)])
        editor.save()
        assert np.array_equal(read_back(config), editor.valid), number
    names = {p.name for p in config.parent.iterdir()}
    assert {"run.yaml.bak", "run.yaml.bak2", "run-valid.png", "run-valid-2.png"} <= names
    first = np.asarray(Image.open(config.with_name("run-valid.png")))
    assert first[5, 10] == 0
    assert first[30, 10] == 255


def test_painted_pixels_that_did_not_change_are_not_written_again(config: Path) -> None:
    Image.fromarray(np.where(np.eye(*SHAPE), 0, 255).astype(np.uint8)).save(
        config.with_name("mine.png")
    )
    text = TEXT.replace("    above: 60000", "    above: 60000\n    image: mine.png")
    config.write_text(text, encoding="utf-8")
    editor = edit_valid(config)
    assert not editor.valid[3, 3]
    editor.draw("circle", [(30, 40), (30, 44)])
    editor.save()
    assert "image: mine.png" in config.read_text("utf-8")
    assert not list(config.parent.glob("*valid*"))


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        ("input: {path: frames.npy}\noutput: {path: out.zarr}\n", True),
        ("input: {path: frames.npy}\noutput: {path: out.zarr}", True),
        ("valid:\ninput: {path: frames.npy}\noutput: {path: out.zarr}\n", True),
        ("valid: {frames: {above: 9}}\ninput: {path: frames.npy}\noutput: {path: o.zarr}\n", True),
        ("input: {path: frames.npy}\noutput: {path: o.zarr}\nvalid: {frames: {below: 2}}", True),
        (
            (
                "valid:\r\n  frames:\r\n    above: 9\r\n# e\r\ninput: {path: frames.npy}\r\n"
                "output: {path: o.zarr}\r\n"
            ),
            True,
        ),
        ("{input: {path: frames.npy}, output: {path: out.zarr}}", False),
        ("  input: {path: frames.npy}\n  output: {path: o.zarr}\n", False),
        (
            (
                "input: {path: frames.npy}\nvalid: {frames: &v {above: 9}, reference: *v}\n"
                "output: {path: o.zarr}\n"
            ),
            True,
        ),
    ],
)  # fmt: skip
def test_configs_of_any_form_are_written_right_or_not_at_all(
    config: Path, text: str, saved: bool
) -> None:
    config.write_bytes(text.encode())
    editor = edit_valid(config)
    editor.draw("rectangle", [(1.6, 2.2), (5.5, 9.9)])
    if saved:
        editor.save()
        assert np.array_equal(read_back(config), editor.valid)
        assert not editor.valid[2:6, 3:10].any()
        assert (b"\r\n" in config.read_bytes()) == ("\r\n" in text)
        assert b"\n" not in config.read_bytes().replace(b"\r\n", b"") or "\r\n" not in text
        return
    with pytest.raises(InputError, match=r"(?s)unusual.*rectangle: \[2, 6, 3, 10\]"):
        editor.save()
    assert config.read_bytes() == text.encode()
    assert sorted(p.name for p in config.parent.iterdir()) == ["frames.npy", "run.yaml"]


def test_a_config_that_somebody_else_changed_is_left_alone(config: Path) -> None:
    editor = edit_valid(config)
    editor.draw("brush", [(5.0, 5.0)])
    config.write_text(TEXT + "# mine\n", encoding="utf-8")
    editor._clicked_save()
    assert "changed by somebody" in editor.notice.object
    assert config.read_text("utf-8") == TEXT + "# mine\n"
    assert not list(config.parent.glob("*valid*"))


@settings(max_examples=40)
@given(points, st.floats(0.2, 8))
def test_a_brush_covers_what_lies_within_its_radius(
    way: list[tuple[float, float]], radius: float
) -> None:
    rows, columns = np.indices(SHAPE)
    away = np.full(SHAPE, np.inf)
    for (y0, x0), (y1, x1) in zip(way, way[1:] or way, strict=False):
        for t in np.linspace(0, 1, 300):
            step = np.hypot(rows - y0 - t * (y1 - y0), columns - x0 - t * (x1 - x0))
            away = np.minimum(away, step)
    inside = brush_pixels(way, radius, SHAPE)
    assert inside[away <= radius - 0.15].all()
    assert not inside[away > radius + 0.15].any()


@given(points, points)
def test_what_is_restored_counts_and_nothing_else_changes(
    brushed: list[tuple[float, float]], restored: list[tuple[float, float]]
) -> None:
    spec = ValidConfig(
        exclude=(Figure(rectangle=(5, 20, 5, 20)), Figure(circle=(30, 30, 6))),
        include=(Figure(rectangle=(2, 38, 2, 48)),),
    )
    drawing = Drawing(spec, SHAPE).brushed(brush_pixels(brushed, 3, SHAPE))
    pixels = brush_pixels(restored, 2, SHAPE)
    assert np.array_equal(drawing.restored(pixels).area(), drawing.area() | pixels)


def test_figures_that_a_restoring_brush_does_not_touch_stay_figures() -> None:
    far, near = Figure(circle=(30, 30, 6)), Figure(rectangle=(5, 20, 5, 20))
    drawing = Drawing(ValidConfig(exclude=(far, near)), SHAPE)
    restored = drawing.restored(brush_pixels([(10, 10)], 2, SHAPE))
    assert restored.spec.exclude == (far,)
    assert restored.painted is not None


@given(points, st.sampled_from(["rectangle", "circle", "polygon"]))
def test_the_points_of_a_figure_draw_it_again(drawn: list[tuple[float, float]], kind: Any) -> None:
    figure = figure_of(kind, drawn, SHAPE)
    if figure is not None:
        again = figure_of(kind_of(figure), points_of(figure, SHAPE), SHAPE)
        assert again is not None
        assert np.array_equal(figures(SHAPE, [again]), figures(SHAPE, [figure]))


def test_a_rectangle_has_the_pixels_whose_centres_are_inside() -> None:
    rows, columns = np.indices(SHAPE)
    figure = figure_of("rectangle", [(12.4, 3.5), (4.2, 8.6)], SHAPE)
    assert figure is not None
    wanted = (rows >= 4.2) & (rows <= 12.4) & (columns >= 3.5) & (columns <= 8.6)
    assert np.array_equal(figures(SHAPE, [figure]), wanted)


def test_figures_in_percent_stay_as_they_are_until_they_are_moved(config: Path) -> None:
    editor = edit_valid(config)
    editor.draw("rectangle", [(30, 2), (35, 8)])
    assert editor.drawing.listed()[0][1].rectangle == (0.0, "61%", "46%", "61%")
    before = figures(SHAPE, [editor.drawing.listed()[0][1]])
    editor.draw("move", [(10.0, 26.0), (12.2, 27.9)])
    moved = editor.drawing.listed()[0][1]
    assert np.array_equal(figures(SHAPE, [moved]), np.roll(before, (2, 2), axis=(0, 1)))


def test_figures_are_found_where_they_lie_and_moved() -> None:
    spec = ValidConfig(exclude=(Figure(rectangle=(5, 20, 5, 20)), Figure(circle=(10, 10, 3))))
    drawing = Drawing(spec, SHAPE)
    assert [figure_at(drawing, p) for p in ((6, 6), (10, 10), (39, 49), (-3, 5))] == [
        0, 1, None, None,
    ]  # fmt: skip
    assert moved_figure(spec.exclude[1], (100, 0), SHAPE) is None
    line = outline_of(spec.exclude[0], SHAPE)
    assert line.min(axis=0).tolist() == [4.5, 4.5]
    assert line.max(axis=0).tolist() == [19.5, 19.5]


def test_undoing_goes_back_and_drawing_anew_forgets_what_was_undone(config: Path) -> None:
    editor = edit_valid(config)
    first = editor.valid
    editor.draw("circle", [(20, 10), (20, 15)])
    second = editor.valid
    assert np.array_equal(second, first & ~circle(SHAPE, 20, 10, 5))
    editor.undo()
    assert np.array_equal(editor.valid, first)
    editor.redo()
    assert np.array_equal(editor.valid, second)
    editor.undo()
    editor.draw("brush", [(30.0, 5.0)])
    editor.redo()
    assert editor.redo_button.disabled
    assert not editor.valid[30, 5]
    assert editor.valid[20, 10]


def test_a_gesture_that_covers_nothing_is_said(config: Path) -> None:
    editor = edit_valid(config)
    before = editor.drawing
    for kind, drawn in (
        ("rectangle", [(2.2, 2.2), (2.3, 2.3)]),
        ("circle", [(5.0, 5.0), (5.0, 5.0)]),
        ("polygon", [(1.0, 1.0), (2.0, 2.0)]),
        ("brush", [(500.0, 500.0)]),
        ("move", [(39.0, 2.0), (20.0, 2.0)]),
        ("look", [(1.0, 1.0), (9.0, 9.0)]),
    ):
        editor.draw(kind, drawn)
        assert editor.drawing is before
        assert "covers no pixel" in editor.notice.object


def test_a_figure_can_be_typed_and_one_that_is_none_is_not_taken(config: Path) -> None:
    editor = edit_valid(config)
    box = editor.figures.objects[0][1]
    assert box.value == "rectangle: [0, 61%, 46%, 61%]"
    box.value = "circle: [20, 25, 50%]"
    assert np.array_equal(editor.valid, ~circle(SHAPE, 20, 25, "50%"))
    for text in ("circle: [20]", "triangle: [1]", "circle: [", "circle: [900, 900, 2]"):
        editor.figures.objects[0][1].value = text
        assert editor.notice.object != "<span style='color: #b3261e'></span>", text
        assert np.array_equal(editor.valid, ~circle(SHAPE, 20, 25, "50%"))
    editor._dropped(0)
    assert editor.valid.all()


def test_rules_of_values_are_shown_and_written(config: Path) -> None:
    frames = np.load(config.with_name("frames.npy"))
    frames[:, 30:, 40:] = 500
    np.save(config.with_name("frames.npy"), frames)
    editor = edit_valid(config)
    editor.above_box.value = 400.0
    assert not editor.canvas._area[30:, 40:].any()
    assert editor.valid[30:, 40:].all()  # values are no figure
    editor.below_box.value = 900.0
    assert "leave no valid value" in editor.notice.object
    editor.below_box.value = None
    editor.save()
    assert load_config(config).valid.frames.above == 400
    assert load_config(config).valid.frames.below is None


def test_an_area_that_looks_inverted_is_said_while_it_is_drawn(config: Path) -> None:
    editor = edit_valid(config)
    editor.keep_box.value = True
    editor.draw("rectangle", [(20.0, 20.0), (22.0, 22.0)])
    assert "under 10 %" in editor.share.object.replace("10%", "10 %")


def test_a_stack_without_a_config_is_drawn_on_and_the_section_copied(config: Path) -> None:
    editor = stillstack.open_stack(config.with_name("frames.npy")).stillstack.edit_valid()
    editor.draw("rectangle", [(2, 3), (9, 12)])
    assert not editor.valid[2:10, 3:13].any()
    assert "rectangle: [2, 10, 3, 13]" in editor.section.object
    assert editor.save_button.disabled
    with pytest.raises(InputError, match="no config"):
        editor.save()
    with pytest.raises(InputError, match="nothing to draw on"):
        edit_valid()


def test_frames_are_shown_one_by_one_and_what_cannot_be_read_is_said(config: Path) -> None:
    editor = edit_valid(config)
    frames = np.load(config.with_name("frames.npy"))
    editor.image_box.value = "frame"
    editor.frame_box.value = 4
    assert np.array_equal(editor.canvas._image, frames[4])
    config.with_name("frames.npy").rename(config.with_name("gone.npy"))
    editor.frame_box.value = 5
    assert "cannot be read" in editor.notice.object


def test_an_output_that_is_there_already_is_spoken_of(config: Path) -> None:
    config.with_name("out.zarr").mkdir()
    editor = edit_valid(config)
    editor.draw("brush", [(30.0, 5.0)])
    editor._clicked_save()
    assert "give another output.path" in editor.notice.object


def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ConfigFile.read(tmp_path / "none.yaml")
    with pytest.raises(InputError):
        edit_valid(tmp_path / "none.yaml")
