"""The style that pictures share: colours that everyone tells apart, labels that keep apart, files that are whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pictures import POINTS, RECIPES, family, row_sums, sentence_curve, texts_of

from curvekit import figures
from curvekit.errors import CurvekitError
from curvekit.figures.drawing import COLOURS, OWN, SPARE, colour, distinct, place_labels, text_width, wrap

# Machado, Oliveira and Fernandes (2009), severity 1: what linear RGB becomes.
DEFICIENCIES = {
    "none": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}


def lightness_and_hue(name, deficiency):
    """CIE L*a*b* of a colour as seen with a deficiency."""
    srgb = np.array(to_rgb(COLOURS[name]))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colour_blind_readers_tell_the_five_named_recipes_apart(deficiency):
    for a, b in itertools.combinations(RECIPES[:5], 2):
        distance = np.linalg.norm(lightness_and_hue(a, deficiency) - lightness_and_hue(b, deficiency))
        assert distance > 20, f"{a} and {b} look alike: {distance:.1f}"


def test_names_of_one_picture_have_colours_of_their_own():
    alike = [f"model {'ab'[k % 2]}{'ba'[k % 2]}{k // 2}" for k in range(6)]  # letters with the same sum, two by two
    assert len({colour(name) for name in alike}) < len(alike)
    found = distinct(["plain", "softemax", *alike[:5]])
    assert len(set(found.values())) == 7 and all(found[name] == colour(name) for name in ("plain", "softemax"))
    assert found[alike[0]] == colour(alike[0]), "the first of two keeps it"
    assert set(distinct(map(str, range(30))).values()) == {*SPARE, *OWN}, "more names than colours still have one"


def test_labels_beside_points_do_not_cover_each_other():
    figure = sentence_curve()
    ax = figure.axes[0]
    for label in list(ax.texts):
        label.remove()
    labels = place_labels(ax, np.array([[0, 0], [0.01, 0], [0, 0.01]]), ["first", "second", "third"], POINTS)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_text_is_measured_as_it_is_drawn_and_wrapped_to_fit():
    text = "Weight of one key as its score grows, in a row of eight keys"
    assert all(text_width(line) <= 2 for line in wrap(text, 2))
    assert " ".join(wrap(text, 2)) == text
    drawn = next(t for t in texts_of(family()) if t.get_text().startswith("One formula"))
    assert drawn.get_window_extent().width / 100 == pytest.approx(text_width(drawn.get_text(), 11, "bold"), rel=0.06)


def test_saving_writes_svg_and_png_and_shows_a_png_with_its_description(tmp_path):
    picture = figures.save(row_sums(), "row-sums", tmp_path)
    assert (tmp_path / "figures" / "row-sums.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "figures" / "row-sums.png").read_bytes().startswith(b"\x89PNG")
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"] == {"width": 740, "alt": picture.figure.get_label()}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures.save(row_sums(), "row-sums", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", ".hidden"])
def test_a_figure_name_that_is_a_path_is_refused(name, tmp_path):
    with pytest.raises(CurvekitError, match="rename it"):
        figures.save(row_sums(), name, tmp_path)
    assert not list(tmp_path.iterdir())
