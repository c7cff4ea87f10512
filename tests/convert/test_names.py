"""The tables of names against the released lists, and what has no name there."""

from typing import Any

import pytest
import torch
from authors_network import listed, shapes

from dgkd_core.convert.authors import export_authors_checkpoint
from dgkd_core.convert.names import DENOISER, NETWORK, authors_name
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.models.network import Network
from dgkd_core.models.wide_resnet import WideResNet38


@pytest.mark.parametrize(("who", "dgf2"), [("student", "paper"), ("teacher", "off")])
def test_names_and_shapes_are_the_released_ones(who: str, dgf2: str) -> None:
    """All but PAMR's constant kernels, name by name and parameter by parameter."""
    keys = listed(f"{who}_checkpoint_keys.txt")
    theirs = {name: shape for name, shape in keys.items() if "._aff." not in name}
    assert len(keys) - len(theirs) == 3
    with torch.device("meta"):
        network = Network(WideResNet38(), 20, 256, dgf2)
    assert shapes(export_authors_checkpoint(network)) == theirs
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(
        torch.Size(shape).numel() for name, shape in theirs.items() if not name.endswith(statistics)
    )
    assert sum(p.numel() for p in network.parameters()) == count
    assert 140e6 < count < 150e6


def test_the_denoisers_names_and_shapes_are_the_released_ones() -> None:
    state = FeatureDenoiser(32).state_dict()
    mine = {f"ddim.{authors_name(key, DENOISER)}": tuple(v.shape) for key, v in state.items()}
    assert mine == listed("diffkd_keys_C.txt")


def test_the_tables_are_one_to_one() -> None:
    assert len(set(NETWORK.values())) == len(NETWORK)
    assert len(set(DENOISER.values())) == len(DENOISER)


@pytest.mark.parametrize("change", [{"dgf2": "gated"}, {"width": 8}, {"curve": True}], ids=str)
def test_what_the_authors_have_no_name_for_is_not_exported(change: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = Network(WideResNet38(), 3, **change)
    with pytest.raises(ValueError, match="no place in the authors' network"):
        export_authors_checkpoint(network)
