"""A family of vectors survives its file bit for bit, and nothing that is not one gets in."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_ortho.interventions.sites import Site, attn_pattern, resid_post
from mi_ortho.runs.directory import start
from mi_ortho.steering.files import SteeringVectors, header, load_vectors, save_vectors


def family(n: int = 4, d_model: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> SteeringVectors:
    rows = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return SteeringVectors(rows, resid_post(2), "organism", {"match": "kl", "radius": 7.0, "prompts": ["How ✓ <b>?"]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 5),
    d_model=st.integers(1, 7),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layer=st.integers(0, 90),
    kind=st.sampled_from(["resid_pre", "resid_post", "attn_out", "mlp_out"]),
    model=st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    meta=st.dictionaries(st.text(alphabet="abc"), json_values, max_size=3),
)
def test_load_undoes_save(tmp_path_factory, n, d_model, dtype, layer, kind, model, meta) -> None:
    path = tmp_path_factory.mktemp("vectors") / "deep" / "family.safetensors"
    try:
        json.dumps(meta, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        meta = {}
    rows = torch.randn(n, d_model).to(dtype)
    save_vectors(SteeringVectors(rows, Site(layer, kind), model, meta), path)
    found = load_vectors(path)
    assert found.vectors.dtype == dtype and torch.equal(found.vectors, rows)
    assert found.site == Site(layer, kind) and found.model == model and dict(found.meta) == meta


def test_views_columns_and_gradients_are_saved_as_they_look(tmp_path: Path) -> None:
    rows = torch.randn(8, 6, requires_grad=True).T[::2]
    save_vectors(SteeringVectors(rows, resid_post(2), "organism"), tmp_path / "v.safetensors")
    assert torch.equal(load_vectors(tmp_path / "v.safetensors").vectors, rows)


def test_any_program_can_read_the_header(tmp_path: Path) -> None:
    save_vectors(family(), tmp_path / "v.safetensors")
    with safetensors.safe_open(tmp_path / "v.safetensors", "pt") as file:
        found = file.metadata()
    assert (
        found["site"] == "resid_post.2" and found["model"] == "organism" and json.loads(found["meta"])["radius"] == 7.0
    )


def test_a_family_of_a_run_is_read_by_name(tmp_path: Path) -> None:
    with start(tmp_path, "family", {"n": 2}) as run:
        run.save_tensors("vectors/base", {"vector": torch.ones(6)})
        for i in range(2):
            run.save_tensors(f"vectors/kl/{i:06d}", {"vector": torch.full((6,), float(i))})
        run.consolidate("vectors", header(resid_post(2), "organism", {"where": "prompt"}))
    file = run.path / "vectors.safetensors"
    assert load_vectors(file, "kl").vectors[:, 0].tolist() == [0.0, 1.0]
    assert load_vectors(file, "base").vectors.shape == (1, 6) and load_vectors(file, "kl").meta["where"] == "prompt"
    with pytest.raises(ValueError, match="got tensor name 'vectors'; expected one of base, kl"):
        load_vectors(file)


def test_subset_vector_and_norms() -> None:
    all_four = family()
    chosen = all_four.subset([3, 1])
    assert torch.equal(chosen.vectors, all_four.vectors[[3, 1]]) and chosen.meta == all_four.meta and len(chosen) == 2
    assert torch.equal(all_four.vector(2), all_four.vectors[2])
    assert torch.allclose(all_four.norms, (all_four.vectors**2).sum(1).sqrt())
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"got vector index {wrong}; expected 0 to 3"):
            all_four.vector(wrong)
        with pytest.raises(ValueError, match="expected 0 to 3"):
            all_four.subset([0, wrong])


def test_what_is_no_family_is_refused() -> None:
    rows = torch.ones(3, 4)
    rows[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in vector 1 \(1 in all\)"):
        SteeringVectors(rows, resid_post(2), "organism")
    with pytest.raises(ValueError, match="width 0"):
        SteeringVectors(torch.ones(3, 0), resid_post(2), "organism")
    with pytest.raises(ValueError, match="ends in d_model"):
        SteeringVectors(torch.ones(3, 4), attn_pattern(2), "organism")
    with pytest.raises(ValueError, match="expected numbers"):
        SteeringVectors(torch.ones(3, 4), resid_post(2), "organism", {"what": object()})
    with pytest.raises(Exception, match="vectors"):  # the shape is checked by the type annotation
        SteeringVectors(torch.ones(4), resid_post(2), "organism")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pkl", ".pth"])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"vectors": Bomb()}, tmp_path / f"v{suffix}")
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / f"v{suffix}").read_bytes())
    with pytest.raises(ValueError, match="can run code and are never read"):
        load_vectors(tmp_path / f"v{suffix}")
    with pytest.raises(ValueError, match="cannot be read"):
        load_vectors(tmp_path / "renamed.safetensors")
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(ValueError, match="expected a name ending in .safetensors"):
        save_vectors(family(), tmp_path / f"v{suffix}")


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    save_vectors(family(), tmp_path / "v.safetensors")
    whole = (tmp_path / "v.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[:-7])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    safetensors.torch.save_file({"vectors": torch.ones(2, 3)}, tmp_path / "bare.safetensors")
    about = header(resid_post(2), "organism", {})
    safetensors.torch.save_file({"vectors": torch.ones(2, 3, 4)}, tmp_path / "cube.safetensors", about)
    safetensors.torch.save_file({"vectors": torch.ones(2, 3).int()}, tmp_path / "int.safetensors", about)
    safetensors.torch.save_file({"vectors": torch.tensor([[torch.inf]])}, tmp_path / "inf.safetensors", about)
    expected = {
        "torn": "cannot be read",
        "empty": "cannot be read",
        "bare": "without site",
        "missing": "not a file",
        "cube": "expected n d_model floats",
        "int": "expected n d_model floats",
        "inf": "NaN or infinity",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_vectors(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)
