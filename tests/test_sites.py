"""Sites: names, boundaries and what may be written, for every kind."""

import itertools

import pytest

from mi_ortho.interventions.sites import KINDS, Site, attn_out, attn_pattern, mlp_out, resid_mid, resid_post, resid_pre

ALL = [Site(layer, kind) for layer, kind in itertools.product(range(3), KINDS)]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("site", ALL, ids=str)
def test_parse_inverts_str(site: Site):
    assert Site.parse(str(site)) == site


def test_constructors_name_transformer_lens_hook_points():
    made = [resid_pre(1), resid_mid(1), resid_post(1), attn_out(1), mlp_out(1), attn_pattern(1)]
    assert [site.name for site in made] == [
        "blocks.1.hook_resid_pre",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
        "blocks.1.attn.hook_pattern",
    ]
    assert len({site.name for site in ALL}) == len(ALL)


def test_equal_boundaries_are_exactly_the_two_names_of_one_activation():
    placed = [site for site in ALL if site.boundary is not None]
    pairs = {(str(a), str(b)) for a, b in itertools.permutations(placed, 2) if a.boundary == b.boundary and a < b}
    assert pairs == {("resid_post.0", "resid_pre.1"), ("resid_post.1", "resid_pre.2")}
    assert {site.kind for site in placed} == {"resid_pre", "resid_post"}


def test_only_what_reaches_the_residual_stream_is_writable():
    assert {site.kind for site in ALL if site.writable} == {"resid_pre", "resid_post", "attn_out", "mlp_out"}


def test_axes():
    assert resid_post(0).axes == ("batch", "pos", "d_model")
    assert attn_pattern(0).axes == ("batch", "head", "query_pos", "key_pos")


def test_sites_sort_by_layer_first():
    assert sorted([resid_post(2), resid_post(0), attn_out(1)]) == [resid_post(0), attn_out(1), resid_post(2)]


@pytest.mark.parametrize("text", ["", "4", "resid_post", "resid_post.", "resid_post.-1", "resid_post.x", "post.4"])
def test_parse_names_the_value_and_the_remedy(text: str):
    with pytest.raises(ValueError, match="got site .*; expected .*; write"):
        Site.parse(text)


def test_negative_layers_are_refused():
    with pytest.raises(ValueError, match="got layer -1"):
        resid_post(-1)
