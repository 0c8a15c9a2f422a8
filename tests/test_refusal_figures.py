"""Tables of coloured numbers and wheels: every number is there, texts are inert, mistakes are said."""

import pytest

from mi_ortho.pages.grid import Cell, grid
from mi_ortho.pages.wheel import Lap, wheel

HOSTILE = "<script>window.pwned = 1</script>"


def test_a_grid_shows_every_number_with_its_colour_and_letters() -> None:
    cells = [[Cell(2.0, "K", "why", True), Cell(-1.0)], [Cell(None), Cell(-0.0001)]]
    drawn = str(grid(cells, ["a", "b"], ["x", "y"], caption="c"))
    assert "2.00 <i>K</i>" in drawn and 'title="why"' in drawn and drawn.count("framed-cell") == 1
    assert "rgba(0, 114, 178, 0.75)" in drawn and "rgba(213, 94, 0, 0.38)" in drawn  # deepest, and half of it
    assert ">–</td>" in drawn and ">0.00</td>" in drawn and "-0.00" not in drawn


def test_values_that_are_no_numbers_have_no_colour() -> None:
    drawn = str(grid([[Cell(float("nan")), Cell(float("inf")), Cell(1.0)]], ["a"], ["x", "y", "z"], caption="c"))
    assert drawn.count(">–</td>") == 2 and drawn.count(", 0.00)") == 2


def test_texts_of_grids_and_wheels_stay_texts() -> None:
    drawn = str(grid([[Cell(1.0, HOSTILE, HOSTILE)]], [HOSTILE], [HOSTILE], caption=HOSTILE, corner=HOSTILE))
    drawn += str(wheel(HOSTILE, [Lap(HOSTILE, [0.0], [1.0], "c0")]))
    assert "<script" not in drawn and drawn.count("&lt;script") >= 8


def test_a_wheel_has_all_at_the_rim_and_none_in_the_centre() -> None:
    drawn = str(wheel("t", [Lap("one", [90, 0, 180], [1.0, 0.5, 0.0], "c1")]))
    assert 'd="M44.0 -0.0L0.0 -88.0L-0.0 -0.0Z"' in drawn and drawn.count("<title>one, ") == 3
    assert "one, 90°: 1</title>" in drawn and "var(--c1)" in drawn


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one name for every row"):
        grid([[Cell(1.0)]], ["a", "b"], ["x"], caption="c")
    with pytest.raises(ValueError, match="one name for every row"):
        grid([[Cell(1.0)]], ["a"], ["x", "y"], caption="c")
    with pytest.raises(ValueError, match="expected one each"):
        wheel("t", [Lap("one", [0.0], [], "c0")])
