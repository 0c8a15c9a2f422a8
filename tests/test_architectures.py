"""Every capability on every architecture: exact, or refused in one line where the table here says so."""

import architectures
import capabilities
import pytest

POST_NORMS = ("gemma2", "gemma3", "olmo2", "glm4")
SPARSE = ("mixtral", "qwen3_moe", "gpt_oss")
NO_ATTENTION = ("qwen3_next", "mamba")  # in some or all blocks
REFUSED = {
    "weight edit": {*POST_NORMS, *SPARSE, *NO_ATTENTION, "bloom", "xglm", "opt_narrow"},
    "head writes": {*POST_NORMS, *NO_ATTENTION, "granite"},
    "output matrices": {*POST_NORMS, *SPARSE, *NO_ATTENTION, "granite"},
    "ablation": {*NO_ATTENTION},
    "attention patterns": {*NO_ATTENTION},
}


@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_every_capability_is_exact_or_refused_in_one_line(family: str) -> None:
    for capability in capabilities.CAPABILITIES:
        found = capabilities.measured(family, capability)
        if family in REFUSED.get(capability, ()):
            assert isinstance(found, str), f"{capability}: {found}"
            assert found.startswith("got ") and "; expected " in found and "\n" not in found
        else:
            assert isinstance(found, float) and found <= capabilities.ROUNDING, f"{capability}: {found}"
