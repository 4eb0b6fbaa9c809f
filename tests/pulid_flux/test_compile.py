"""TorchCompileModel around our hooks, and what a forward does on the device."""

from __future__ import annotations

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.hooks import KEY
from standins.lab import person, sample, small_flux, small_pulid
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode


def apply(model, weight=1.0, start_at=0.0, end_at=1.0, seed=1, **more):
    return PuLIDFluxApplyIdentity.execute(
        model, small_pulid(), person(seed), weight, start_at, end_at, **more
    )[0]


def compiled(model, backend: str):
    """Return the model as the host's TorchCompileModel node makes it."""
    model = model.clone(disable_dynamic=True)
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=model, backend=backend, options=options)
    return model


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def breaks() -> int:
    return sum(counters["graph_break"].values())


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return small_flux(depth=1, depth_single=2)  # a graph for each block would still show


def test_compiled_gives_the_same_picture(flux, dynamo):
    settings = {"start_at": 0.3, "end_at": 0.7}
    expected = sample(apply(flux, **settings), steps=6)
    plain = sample(compiled(flux, "eager"), steps=6)
    assert (breaks(), graphs()) == (0, 1)  # the host's own
    assert not torch.allclose(expected, plain, rtol=1e-2, atol=1e-2)
    orders = {
        "apply first": lambda: compiled(apply(flux, **settings), "eager"),
        "compile first": lambda: apply(compiled(flux, "eager"), **settings),
    }
    for order, make in orders.items():
        torch._dynamo.reset()
        counters.clear()
        torch.testing.assert_close(sample(make(), steps=6), expected, rtol=1e-3, atol=1e-3)
        # one graph with the window closed, one with it open: none for each block or step
        assert (breaks(), graphs()) == (0, 2), order


def test_inductors_code_gives_the_same_picture(dynamo):
    """One block of each kind: inductor compiles code for every block, a minute for five."""
    model = apply(small_flux(depth=1, depth_single=1))
    picture = sample(compiled(model, "inductor"), steps=2)
    assert (breaks(), graphs()) == (0, 1)
    torch.testing.assert_close(picture, sample(model, steps=2), rtol=1e-3, atol=1e-3)


def test_two_identities_on_one_compiled_model(flux, dynamo):
    """Branches that share the compiled forward do not see each other's identity."""
    base = compiled(flux, "eager")
    first, second = apply(base, seed=1), apply(base, seed=2)
    expected = [sample(apply(flux, seed=seed)) for seed in (1, 2)]
    found = [sample(first), sample(second)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sample(base), sample(flux), rtol=1e-3, atol=1e-3)


def test_a_weight_curve_makes_no_new_graphs(flux, dynamo):
    model = compiled(apply(flux, weight_curve="linear out"), "eager")
    sample(model, steps=3)
    before = graphs()
    sample(model, steps=6)
    assert graphs() == before


class Operations(TorchDispatchMode):
    """Record the names of the tensor operations that run."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def operations(model, steps: int) -> list[str]:
    """Return all tensor operations of a run."""
    with Operations() as recorded:
        sample(model, steps=steps)
    return recorded.names


SCALAR_READS = "aten::_local_scalar_dense"
RESIZES = ("upsample", "pool2d")  # parts of the names: inference mode has names of its own


def forwards(flux, steps: int, **identity) -> list[list[str]]:
    """Return the tensor operations of each model call of a run, our decisions included."""
    seen = []

    def record(executor, *args, **kwargs):
        with Operations() as recorded:
            out = executor(*args, **kwargs)
        seen.append(recorded.names)
        return out

    model = flux.clone()
    model.add_wrapper_with_key("apply_model", "a test, outside ours", record)
    sample(apply(model, **identity) if identity else model, steps=steps)
    return seen


def test_what_a_forward_does_on_the_device(flux):
    """One scalar read, to decide; the mask is resized in the first forward only; none adds more."""
    ours, plain = forwards(flux, 5, attn_mask=torch.rand(1, 64, 64)), forwards(flux, 5)
    for names, base in zip(ours, plain, strict=True):
        assert names.count(SCALAR_READS) - base.count(SCALAR_READS) <= 1
    resizes = [sum(any(part in name for part in RESIZES) for name in names) for names in ours]
    assert resizes[0] > 0 and not any(resizes[1:])
    added = [len(names) - len(base) for names, base in zip(ours, plain, strict=True)]
    assert len(set(added[1:])) == 1 and 0 < added[1] < added[0]


def test_the_run_keeps_one_mask(flux):
    """What a run remembers is gone with it, and does not grow with its steps."""
    model = apply(flux, attn_mask=torch.rand(1, 64, 64))
    seen = []

    def watch(executor, *args, **kwargs):
        options = args[2]["model_options"]["transformer_options"]
        seen.append(options[KEY])
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("sampler_sample", "a test", watch)
    sample(model, steps=8)
    (run,) = seen
    assert len(run.masks) == 1 and run.forwards == 8 and run.inserted
    assert KEY not in model.model_options["transformer_options"]
