"""Figures of images: scales that are shared or not, and valid areas with their share in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from stillstack.errors import InputError
from stillstack.pictures import plot_images, plot_valid
from stillstack.valid import valid_from_config

DIM = np.linspace(1.0, 2.0, 64).reshape(8, 8)


def pictures_of(figure: Figure) -> list[Any]:
    return [axes.images[0] for axes in figure.axes if axes.images and axes.get_title(loc="left")]


def test_images_side_by_side_share_one_scale_unless_they_should_not() -> None:
    together = pictures_of(plot_images(DIM, 9 * DIM, titles=("dim", "bright")))
    assert together[0].get_clim() == together[1].get_clim()
    apart = pictures_of(plot_images(DIM, 9 * DIM, titles=("dim", "bright"), one_scale=False))
    assert apart[1].get_clim()[1] == pytest.approx(9 * apart[0].get_clim()[1])


def test_differences_are_white_at_zero() -> None:
    (picture,) = pictures_of(plot_images(DIM, titles=["difference"], difference=True))
    low, high = picture.get_clim()
    assert low == -high
    assert picture.cmap(0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)


def test_the_fifth_image_begins_a_row_and_empty_places_stay_empty() -> None:
    figure = plot_images(*[DIM] * 5, titles=list("abcde"))
    named = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in named] == list("abcde")
    tops = [round(axes.get_position().y1, 2) for axes in named]
    assert len(set(tops[:4])) == 1
    assert tops[4] < tops[0]
    assert sum(not axes.axison for axes in figure.axes) == 3


def test_a_valid_area_is_told_in_words_and_a_proposal_is_dashed() -> None:
    valid = valid_from_config({"exclude": [{"rectangle": [0, 4, 0, "50%"]}]}, DIM.shape)
    (axes, _) = plot_valid(DIM, valid, title="frames.zarr").axes
    assert axes.get_title(loc="left").splitlines()[0] == "frames.zarr"
    assert "75.0% of the pixels" in axes.get_title(loc="left")
    (dashed, _) = plot_valid(DIM, valid | True, proposed=~valid).axes
    assert "looks like a beam-block" in dashed.get_title(loc="left")
    assert len(dashed.collections) == len(axes.collections) + 1


def test_a_mapping_that_is_no_section_of_valid_pixels_is_refused() -> None:
    with pytest.raises(InputError, match=r"valid\.frames has one fault: unknown key 'exclud'"):
        valid_from_config({"exclud": []}, (8, 8))
