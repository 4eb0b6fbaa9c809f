"""Where the face models run: providers, what they are asked for, what is told of them."""

from __future__ import annotations

import asyncio

import comfy.model_management
import execution
import folder_paths
import pytest
import torch
from pulid_pack.encoders import (
    providers,
)
from pulid_pack.encoders.faces import detect_faces
from pulid_pack.nodes import load as load_nodes
from standins.people import astronaut, load_faces

import nodes as host_nodes


def test_auto_is_the_cpu(analysis, face_files):
    assert analysis.provider == "CPU"
    assert analysis.pack == face_files / "antelopev2"
    assert analysis.notes == ()


def test_auto_is_the_cpu_where_an_accelerator_is_listed_first(face_files, monkeypatch):
    offer(monkeypatch, "CUDA")
    assert providers.choose_provider("auto") == ("CPU", ())
    assert load_faces(face_files).provider == "CPU"


def offer(monkeypatch, *names: str) -> None:
    """Let onnxruntime list further providers, as its other wheels do; starting one still fails."""
    import onnxruntime

    listed = [providers.PROVIDERS[name] for name in (*names, "CPU")]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)


def test_a_provider_that_is_not_offered_is_refused_with_the_list(face_files):
    offered = providers.offered_providers()
    absent = next(name for name in providers.PROVIDERS if name not in offered)
    with pytest.raises(ValueError, match=rf"provider {absent} here; it offers .*CPU"):
        load_faces(face_files, provider=absent)
    with pytest.raises(ValueError, match="Unknown provider 'TPU'; choose one of auto, CPU, CUDA,"):
        load_faces(face_files, provider="TPU")


@pytest.mark.parametrize("provider", ["CUDA", "MIGraphX", "DirectML"])
def test_an_accelerator_that_does_not_start_is_told_and_the_cpu_does_it(
    face_files, monkeypatch, provider
):
    """What onnxruntime-gpu does without CUDA: it lists the provider and runs on the CPU."""
    if provider in providers.offered_providers():
        pytest.skip("it may start here")
    offer(monkeypatch, provider)
    found = load_faces(face_files, provider=provider)
    assert found.provider == found.sessions.at_work == "CPU"
    (note,) = found.notes
    assert f"onnxruntime offers {provider} but could not start it" in note
    assert "the face models run on the CPU" in note
    detect_faces(found, astronaut())
    found.sessions.rest()
    assert found.sessions.models and found.sessions.loads == 1  # it takes no accelerator's memory


def test_the_provider_of_version_0_1_goes_on_working(face_files, monkeypatch):
    """ROCM is AMD's former provider: its heir is taken where it is, else the CPU."""
    found = load_faces(face_files, provider="ROCM")
    if "MIGraphX" not in providers.offered_providers():
        assert found.provider == "CPU"
        assert found.notes == (
            "The provider ROCM has become MIGraphX, which this onnxruntime does not have: CPU is "
            "used.",
        )
    offer(monkeypatch, "CUDA", "MIGraphX")
    chosen = providers.choose_provider("ROCM")
    assert chosen == ("MIGraphX", ("The provider ROCM has become MIGraphX.",))


def test_the_node_lists_the_table_and_the_host_takes_old_choices_too(monkeypatch, tmp_path):
    for name in load_nodes.folders.OWN_FOLDERS:
        place = ([str(tmp_path)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, place)
    schema = load_nodes.PuLIDFluxLoadInsightFace.define_schema()
    (provider,) = (one for one in schema.inputs if one.id == "provider")
    assert provider.options == ["auto", "CPU", "CUDA", "MIGraphX", "CoreML", "DirectML"]
    for name in ("auto", "CPU", "CUDA", "ROCM", "CoreML", "DirectML"):
        assert accepted(name), name


def accepted(provider: str) -> bool:
    """Return whether the host takes the loader with ``provider`` in a prompt."""
    node = load_nodes.PuLIDFluxLoadInsightFace
    inputs = {
        "model_pack": "antelopev2",
        "provider": provider,
        "parsing_model": "parsing_bisenet.pth",
        "landmarks": "model pack",
    }
    prompt = {"1": {"class_type": "Faces", "inputs": inputs}}
    known = {"Faces": node}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", known)
        valid, errors, _ = asyncio.run(execution.validate_inputs("p", prompt, "1", {}))
    return valid and not errors


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        ("cuda:1", "CUDA", {"device_id": "1", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda:0", "CUDA", {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda", "MIGraphX", {"device_id": "0"}),
        ("cpu", "CUDA", {"cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda:1", "DirectML", {}),  # it counts cards in its own order
        ("mps", "CoreML", {}),
    ],
)
def test_an_accelerator_is_comfyuis_own_and_searches_quickly(
    monkeypatch, device, provider, expected
):
    here = torch.device(device)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: here)
    assert providers.provider_arguments(provider) == {
        "providers": [providers.PROVIDERS[provider], "CPUExecutionProvider"],
        "provider_options": [expected, {}],
    }


def test_sessions_get_those_arguments(face_files, monkeypatch):
    """They reach onnxruntime through insightface; a session tells what it was made with."""
    import onnxruntime

    asked = []
    make = onnxruntime.InferenceSession.__init__

    def note(self, *args, **kwargs):
        asked.append((kwargs["providers"], kwargs["provider_options"]))
        make(self, *args, **kwargs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", note)
    offer(monkeypatch, "CUDA")
    load_faces(face_files, provider="CUDA")
    wanted = providers.provider_arguments("CUDA")
    assert asked == [(wanted["providers"], wanted["provider_options"])] * 2


def test_libraries_are_found_before_cuda_is_asked_for(monkeypatch):
    import onnxruntime

    calls = []
    preload = lambda: calls.append("preload")  # noqa: E731
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    providers.prepare_libraries("CPU")
    assert calls == []
    providers.prepare_libraries("CUDA")
    assert calls == ["preload"]
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    providers.prepare_libraries("CUDA")  # before 1.21 there is none


def test_the_loader_says_on_the_node_what_runs_and_what_is_odd(face_files, monkeypatch):
    said = []
    monkeypatch.setattr(load_nodes, "show", lambda node, notes: said.extend(n.text for n in notes))
    by_name = {"pack": face_files / "antelopev2", "parser": face_files / "parsing_bisenet.pth"}
    monkeypatch.setattr(load_nodes.folders, "find", lambda kind, name: by_name[name])
    node = load_nodes.PuLIDFluxLoadInsightFace
    node.execute("pack", "auto", "parser", "model pack")
    offer(monkeypatch, "CUDA")
    node.execute("pack", "CUDA", "parser", "model pack")
    assert said[:2] == ["Face models on CPU"] * 2
    assert said[2].startswith("onnxruntime offers CUDA but could not start it")
