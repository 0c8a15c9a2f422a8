"""The page for contributors says what is true: its picture shows the imports, and its recipes work."""

import house


def test_the_picture_shows_the_house_as_it_is() -> None:
    drawn, real = house.read_picture(house.PICTURE.read_text("utf-8")), house.read_house()
    again = "draw it again: python -m tests.house"
    assert drawn.arrows == real.arrows, again
    assert drawn.lines.keys() == real.lines.keys(), again
    # a few lines more or less are no other house
    far = [room for room, count in real.lines.items() if abs(drawn.lines[room] - count) > max(100, count // 4)]
    assert not far, again
    assert house.draw(drawn) == house.PICTURE.read_text("utf-8"), again


def test_a_picture_of_other_imports_is_seen() -> None:
    real = house.read_house()
    svg = house.draw(real)
    assert house.read_picture(svg) == real and svg.count("<path") == len(real.arrows)
    fewer = house.House(real.lines, real.arrows - {("cli", "studies.overview")})
    assert house.draw(fewer) != svg and house.read_picture(house.draw(fewer)) == fewer


def test_an_arrow_that_follows_from_others_is_no_step() -> None:
    arrows = frozenset({("c", "b"), ("b", "a"), ("c", "a")})
    assert house.House({"a": 1, "b": 1, "c": 1}, arrows).steps == {("c", "b"), ("b", "a")}
