"""Rows and verdicts about layers: planted trajectories are supported, null ones are not; the command and its page."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import GEOMETRY
from torch import Tensor
from toys import randn, rng, rotation

from mi_ortho.interventions.sites import attn_out, mlp_out, resid_mid, resid_post, resid_pre
from mi_ortho.model.trajectories import Trajectories
from mi_ortho.runs.directory import open_run
from mi_ortho.stats import Verdict
from mi_ortho.studies.geometry.config import GeometryConfig
from mi_ortho.studies.geometry.depth import gap_rows, growth_rows, update_rows
from mi_ortho.studies.geometry.layers import flat_rows, likeness_rows, overlap_rows
from mi_ortho.studies.geometry.study import geometry
from mi_ortho.studies.geometry.survey import read_network
from mi_ortho.studies.geometry.verdicts import claims

LAYERS, SAMPLES, WIDTH = 8, 40, 12
SITES = (*(make(k) for k in range(LAYERS) for make in (resid_pre, resid_mid)), resid_post(LAYERS - 1))


def paths(sizes: list[float], *, aligned: bool, mid: float = 0.5) -> Trajectories:
    """Samples whose block k adds an update of scale sizes[k]; attention adds the share `mid` of it."""
    points = [randn(SAMPLES, WIDTH)]
    for k, size in enumerate(sizes):
        update = size * (randn(SAMPLES, WIDTH) if aligned else randn(SAMPLES, WIDTH, seed=k + 1))
        points += [points[-1] + mid * update, points[-1] + update]
    return Trajectories(SITES, torch.stack(points, 1))


def named(rows: list[dict[str, Any]], network: str = "model", group: str = "all") -> list[dict[str, Any]]:
    return [{**row, "network": network, "group": group} for row in rows]


def verdict(rows: list[dict[str, Any]], start: str) -> Verdict:
    return next(claim for claim in claims(rows) if claim.claim.startswith(start))


DOUBLING = [2.0**k for k in range(LAYERS)]
SQUARES = [2.0 * k + 3 for k in range(LAYERS)]  # aligned: the state is a square, a power of depth
EQUAL = [1.0] * LAYERS


def test_planted_growth_laws_are_told_apart() -> None:
    for sizes, exponential in ((DOUBLING, True), (SQUARES, False)):
        rows = named(growth_rows(paths(sizes, aligned=True), 40, rng()))
        assert verdict(rows, "F").supported is exponential
    flat = Trajectories(SITES, randn(SAMPLES, 1, WIDTH).expand(-1, len(SITES), -1) + 1e-3 * randn(SAMPLES, 17, WIDTH))
    assert verdict(named(growth_rows(flat, 40, rng())), "F").supported is False


def test_rising_curves_need_both_sets_and_both_streams() -> None:
    rising = growth_rows(paths(DOUBLING, aligned=True), 20, rng())
    rows = [*named(rising, group="harmful"), *named(rising, group="harmless")]
    assert verdict(rows, "E").supported is True
    falling = named(growth_rows(paths([-0.4] * LAYERS, aligned=True), 20, rng()), group="harmless")
    assert verdict([*rows[: len(rows) // 2], *falling], "E").supported is False


def test_separation_of_streams_and_attentions_share() -> None:
    for mid, separate, more in ((0.8, True, True), (0.2, True, False), (0.0, False, False)):
        rows = named(gap_rows(paths(DOUBLING, aligned=True, mid=mid), 40, rng()))
        assert (verdict(rows, "G:").supported, verdict(rows, "G (why)").supported) == (separate, more)


def test_equal_moves_and_their_alignment() -> None:
    for sizes, aligned in ((EQUAL, True), (EQUAL, False), (DOUBLING, False)):
        rows = named(update_rows(paths(sizes, aligned=aligned), 40, rng()))
        assert verdict(rows, "I").supported is (sizes is EQUAL)
        assert verdict(rows, "H: successive").supported is aligned
    rows = [row for row in update_rows(paths(EQUAL, aligned=True), 10, rng()) if row["kind"] == "update"]
    assert [row["alignment"] for row in rows][-1] is None and rows[0]["alignment"] == pytest.approx(1)


def test_shared_directions_of_weights() -> None:
    base = rotation(32)[:4]
    for shared in (True, False):
        noise = [randn(60, 32, seed=k) for k in range(10)]
        matrices = [randn(60, 4, seed=k + 50) @ base + 0.1 * one if shared else one for k, one in enumerate(noise)]
        rows = overlap_rows([((attn_out, mlp_out)[k % 2](k // 2), m) for k, m in enumerate(matrices)], 4, 20, rng())
        assert verdict(named(rows), "H: the layers").supported is shared
        assert {row["part"] for row in rows if row["kind"] == "overlap"} == {"attention", "mlp", "both"}
        pairs = [row["times"] for row in rows if row["kind"] == "overlap_pair"]
        assert len(pairs) == 45 and (min(pairs) > 2) is shared


def test_one_space_up_to_scale_against_turned_layers() -> None:
    x = randn(60, WIDTH) @ torch.diag(torch.linspace(3, 0.3, WIDTH).double())
    same = torch.stack([(k + 1) * x for k in range(4)], 1)
    turned = torch.stack([x @ rotation(WIDTH, seed=k) for k in range(4)], 1)
    one, other = (verdict(named(likeness_rows(points, 3, rng())), "J") for points in (same, turned))
    assert one.supported is True and one.value == pytest.approx(1, abs=0.05)
    assert other.supported is False and one.control is not None and one.control < 0.5
    rows = likeness_rows(same, 3, rng())
    diagonal = [row for row in rows if row["kind"] == "likeness" and row["source"] == row["target"]]
    assert all(row["cka"] == pytest.approx(1) and row["ceiling"] <= 1 for row in diagonal)


def test_flat_clouds_against_a_circle() -> None:
    def judged(x: Tensor) -> Verdict:
        labels = torch.arange(len(x)) % 2
        rows = flat_rows(x[:, None], labels, neighbours=8, triangles=100, copies=6, generator=rng())
        return verdict(named(rows), "K")

    circle = torch.nn.functional.normalize(randn(150, 2), dim=-1)
    assert judged(torch.cat([circle, 0.02 * randn(150, 1)], 1)).supported is False
    assert judged(randn(250, 3)).supported is True


def test_rows_of_no_measurement_give_no_verdict() -> None:
    assert claims([]) == []


def test_points_where_nothing_varies_are_left_out() -> None:
    trajectories = paths(DOUBLING, aligned=True)
    trajectories.points[:, 0] = 1.0
    rows = growth_rows(trajectories, 5, rng())
    depths = {row["depth"] for row in rows if row["kind"] == "point" and row["stream"] == "pre"}
    assert depths == set(range(1, LAYERS))
    assert {row["depth"] for row in gap_rows(trajectories, 5, rng()) if row["kind"] == "gap"} == set(range(1, LAYERS))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"harmful": ("a", "b", "c"), "harmless": tuple("defghijklm")}, "3 harmful"),
        ({"harmful": tuple("abcde"), "harmless": tuple("fghij")}, "twelve"),
        ({"harmful": tuple("abcdefg"), "harmless": tuple("ghijklm")}, "occurs twice"),
    ],
)
def test_prompt_sets_that_cannot_be_measured_are_refused(sets: dict[str, tuple[str, ...]], message: str) -> None:
    from architectures import model

    with pytest.raises(ValueError, match=message):
        read_network(model("qwen2"), sets)


# the command


def quick(at: Path, config: GeometryConfig = GEOMETRY) -> Path:
    return geometry(config, at.parent, fresh=False, at=at, say=lambda line: None, track=lambda *a: None).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick(tmp_path_factory.mktemp("geometry") / "run")


def test_the_command_judges_every_claim_and_a_second_call_changes_nothing(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert [v["claim"].split(":")[0].split()[0] for v in summary["verdicts"]] == list("EFGGHHIJK")
    assert "9 claims" in summary["headline"]
    before = (run / "records.jsonl").read_bytes()
    assert quick(run) == run and (run / "records.jsonl").read_bytes() == before


def test_an_interrupted_run_ends_with_the_same_rows(run: Path, tmp_path: Path) -> None:
    """Cut in the middle of a stage: what it had recorded of that stage does not count twice."""
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "summary.json").unlink()
    (again / "report.html").unlink()
    lines = (again / "records.jsonl").read_text().splitlines(keepends=True)
    stages = [k for k, line in enumerate(lines) if '"stage"' in line and '"begun"' in line]
    (again / "records.jsonl").write_text("".join(lines[: stages[3] + 2]))
    quick(again)
    assert open_run(again).records() == open_run(run).records()
    assert (again / "summary.json").read_text() == (run / "summary.json").read_text()


@pytest.mark.parametrize(("name", "value"), [("draws", 0), ("copies", 0), ("directions", 129), ("batch", 0)])
def test_settings_that_cannot_work_are_refused_before_measuring(tmp_path: Path, name: str, value: int) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="choose a"):
        quick(tmp_path / "run", replace(GEOMETRY, **{name: value}))
    assert not (tmp_path / "run").exists()


@pytest.mark.browser
def test_the_page_draws_and_fits_on_a_phone(run: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        heard: list[str] = []
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("request", lambda request: heard.append(request.url))
            page.on("console", lambda message: heard.append(message.text))
            page.on("pageerror", lambda error: heard.append(str(error)))
            page.goto((run / "report.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator(".panel svg").count() >= 12 and page.locator("canvas, .grid").count() >= 8
        assert heard == [(run / "report.html").as_uri()] * 2
        browser.close()
