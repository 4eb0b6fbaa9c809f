"""A face recogniser with gradient, for L_id: the crop by five points and ArcFace's ONNX in torch.

The points are found on the picture without gradient; the warp to the recogniser's pixels and the
recogniser itself let it through. A picture without a face has no L_id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..encoders.detection import find_faces, order_faces
from ..encoders.sessions import FaceSessions, find_models
from ..state_dicts import check_download, megabytes

SIDE = 112
# Where insightface lays left eye, right eye, nose, left and right corner of the mouth.
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
OPSET = 13  # what recognisers are made of means the same in others, but onnx2torch knows these
TOLERANCE = 1e-3  # of the largest value, between the two readers of a file
NEEDS = "Training with L_id needs the Python packages in requirements-train.txt ({error})."


@dataclass(frozen=True)
class Recogniser:
    """φ: a recogniser in torch, frozen; it takes RGB pixels (0..255 − mean) / scale."""

    net: nn.Module
    mean: float
    scale: float

    def vectors(self, pictures: Tensor, points: Tensor) -> Tensor:
        """Return the raw vectors [B, 512] of the faces at ``points``, with gradient.

        pictures [B, 3, H, W] RGB in 0..1; points [B, 5, 2] in their pixels, on the CPU.
        """
        pixels = (warp(pictures, points) * 255 - self.mean) / self.scale
        # files may fix the batch to 1
        return torch.cat([self.net(one) for one in pixels.split(1)])

    def to(self, device: torch.device) -> Recogniser:
        """Return the same on ``device``."""
        return Recogniser(self.net.to(device), self.mean, self.scale)


def warp(
    pictures: Tensor, points: Tensor, template: Tensor | None = None, side: int = SIDE
) -> Tensor:
    """pictures [B, 3, H, W], points [B, 5, 2] -> crops [B, 3, 112, 112], 0 outside; bilinear.

    As insightface's norm_crop: the similarity transform that lays the points on the template with
    the least squares. In the plane of complex numbers it is w = a · z + b. ``template`` [5, 2] and
    ``side``: of another crop than the recognisers'.
    """
    z = torch.view_as_complex(points.double().contiguous())
    fixed = torch.tensor(TEMPLATE) if template is None else template
    w = torch.view_as_complex(fixed.to(z.device, torch.float64).contiguous())
    z0, w0 = z.mean(-1, keepdim=True), w.mean()
    a = ((z - z0).conj() * (w - w0)).sum(-1, keepdim=True) / (z - z0).abs().square().sum(
        -1, keepdim=True
    )
    axis = torch.arange(side, dtype=torch.float64, device=z.device)
    pixel = torch.complex(axis[None, :].expand(side, -1), axis[:, None].expand(-1, side))
    source = (pixel - w0) / a[..., None] + z0[..., None]  # [B, side, side]
    size = torch.tensor(pictures.shape[:1:-1]).to(axis)  # width, height
    grid = torch.view_as_real(source) * 2 / (size - 1) - 1
    return torch.nn.functional.grid_sample(
        pictures, grid.to(pictures), mode="bilinear", padding_mode="zeros", align_corners=True
    )


def find_points(pictures: Tensor, sessions: FaceSessions) -> tuple[Tensor, Tensor]:
    """Return the five points [B, 5, 2] of each picture's largest face, and which have one [B].

    pictures [B, 3, H, W] RGB in 0..1. They are read back to the CPU, where the detector runs. Where
    there is no face, the points are the template's: the vector is not to be used.
    """
    photos = (pictures.detach() * 255).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
    points = torch.tensor(TEMPLATE).repeat(len(photos), 1, 1)
    found = torch.zeros(len(photos))
    for number, photo in enumerate(photos):
        if faces := order_faces(find_faces(sessions, photo), "largest"):
            points[number] = torch.from_numpy(faces[0].keypoints)
            found[number] = 1.0
    return points, found


def load_recogniser(path: Path) -> Recogniser:
    """Read an ArcFace ONNX file (antelopev2's glintr100.onnx) as a torch module, frozen.

    ``path`` is the file, or a model pack's folder. Raises FileNotFoundError, ValueError for a file
    that cannot be read as one, RuntimeError where the packages for training are missing.
    """
    try:
        import onnx
        import onnx2torch  # noqa: F401  before anything is read
    except ImportError as error:
        raise RuntimeError(NEEDS.format(error=error)) from error
    if path.is_dir():
        path = next((file for file in find_models(path) if "det" not in file.name), path)
    check_download(path, "a recogniser in ONNX, such as glintr100.onnx (260.7 MB)")
    try:
        model = onnx.load(str(path))
        scaled_inside = scales_itself(model.graph)
        net = converted(model)
        off = difference(net, path)
    except Exception as error:  # onnx, its converters and onnx2torch have no class in common
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a face recogniser in torch. Found {megabytes(path)}. Take "
            f"an ArcFace ONNX file, such as antelopev2's glintr100.onnx. (Reader: {reason})"
        ) from error
    if not off < TOLERANCE:
        raise ValueError(
            f"{path} was converted to torch, but gives other vectors there than in onnxruntime: "
            f"{off:.1e} of the largest value, expected less than {TOLERANCE}. Take an ArcFace ONNX "
            "file, such as antelopev2's glintr100.onnx."
        )
    return Recogniser(net, *((0.0, 1.0) if scaled_inside else (127.5, 127.5)))


def scales_itself(graph: Any) -> bool:
    """Return whether the model takes bytes as they are; insightface tells it by these names."""
    names = [node.name for node in graph.node[:8]]
    return all(
        any(name.startswith(starts) for name in names)
        for starts in (("Sub", "_minus"), ("Mul", "_mul"))
    )


def converted(model: Any) -> nn.Module:
    """Return an ONNX model as a frozen torch module."""
    import onnx2torch

    fold_constants(model.graph, model.opset_import)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OPSET
    with torch.inference_mode(False):
        return onnx2torch.convert(model).eval().requires_grad_(False)


def difference(net: nn.Module, path: Path) -> float:
    """Return how far ``net`` is from onnxruntime's reading of its file, of the largest value."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = torch.linspace(-1, 1, 3 * SIDE * SIDE).reshape(1, 3, SIDE, SIDE)
    name = session.get_inputs()[0].name
    wanted = torch.from_numpy(session.run(None, {name: pixels.numpy()})[0])
    with torch.no_grad():
        return float((net(pixels) - wanted).abs().max() / wanted.abs().max())


def fold_constants(graph: Any, opset_import: Any) -> None:
    """Replace the nodes of a graph that depend on constants alone by their values, in place."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {tensor.name: tensor for tensor in graph.initializer}
    rest = []
    for node in graph.node:
        if any(name and name not in known for name in node.input):
            rest.append(node)
            continue
        values = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
        empty = helper.make_tensor_type_proto(1, None)
        ins = [helper.make_value_info(name, empty) for name in values]
        outs = [helper.make_value_info(name, empty) for name in node.output]
        one = helper.make_model(
            helper.make_graph([node], "constant", ins, outs), opset_imports=list(opset_import)
        )
        for name, value in zip(node.output, ReferenceEvaluator(one).run(None, values), strict=True):
            known[name] = numpy_helper.from_array(value, name)
    used = {name for node in rest for name in node.input}
    graph.ClearField("node")
    graph.node.extend(rest)
    graph.ClearField("initializer")
    graph.initializer.extend(tensor for name, tensor in known.items() if name in used)
