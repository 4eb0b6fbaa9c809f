"""The nodes that save, load and blend identities."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.nodes.identities import PuLIDFluxBlendIdentities
from standins.lab import person

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def test_the_blend_node_takes_what_is_linked():
    out = PuLIDFluxBlendIdentities.execute(
        "linear",
        identity_1=person(1),
        weight_1=1.0,
        identity_2=person(2),
        weight_2=1.0,
        identity_4=person(3),
        weight_4=2.0,
    )
    expected = (person(1).id_tokens + person(2).id_tokens + 2 * person(3).id_tokens) / 4
    torch.testing.assert_close(out[0].id_tokens, expected)
