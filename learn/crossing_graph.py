"""Crossing Nets' inference as an ONNX graph: the same function as `crossing_nets.PoseNet`, in fewer multiplications.

Batch normalisation is folded into the weights. Behind the head's hidden layer h (B, 23) everything up to the VAE's
hidden layer is one linear map, and so is the way from h to the palm's offset:

    joints = 50 mm (W leaky(A h) + O h),    A = open leave[:20],    O = leave[20:] for each joint.

**The trunk's second convolution** is two thirds of all multiplications: 6 x 6 with stride 2, which is a 3-tap
convolution of the even rows and one of the odd ones. Both are done by minimal filtering along the rows, F(4, 3) of
Winograd ("Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, section 4.3): of 6 input rows d and 3 filter rows g, 4 output rows

    y = A [(G g) * (B d)]

in 6 products instead of 12. `B` is a depthwise convolution of stride 8, the products are 1 x 6 convolutions with
transformed weights, `A` is sums. The output comes as 4 maps, of the rows 4 n, 4 n + 1, 4 n + 2, 4 n + 3; the next
convolution, of stride 2, takes these as they are and gives 2, and the one after it again a whole map.
`benchmarks/predict.py` tells what an image takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .crossing_nets import POSE_UNIT_MM, Layer, PoseNet

OPSET: Final = 17
FILTERED_FROM_PX: Final = 128
"""Smaller inputs gain nothing: their maps are so small that the number of operators counts."""
PAD: Final = 2
"""Of every convolution, 6 x 6 with stride 2."""
B: Final = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G: Final = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)

F64 = NDArray[np.float64]
Pads = tuple[int, int, int, int]
"""Above, left, below, right."""
ALL_AROUND: Final[Pads] = (PAD, PAD, PAD, PAD)


def pose_graph(net: PoseNet, *, input_px: int, joints: int, filtered: bool = True) -> bytes | None:
    """The network as an ONNX file, `crop` (B, 1, P, P) to `joints_mm` (B, J, 3), with minimal filtering or without.

    None for one with the authors' normalisation, which is left to torch's exporter.
    """
    if net.min_max:
        return None
    layers: list[Any] = [*net.trunk.layers, *net.pos.layers]
    slope = layers[0].slope
    assert all(layer.slope == slope for layer in layers)
    graph = _Graph(layers[0].inner.out_channels)
    first, *rest = [_folded(layer) for layer in layers]
    x = graph.leaky(graph.conv("crop", *first, pads=ALL_AROUND, stride=(2, 2)), slope)
    if filtered and input_px >= FILTERED_FROM_PX:
        x = _filtered(graph, x, rest[:3], rows=input_px // 2, slope=slope)
        rest = rest[3:]
    for weight, bias in rest:
        x = graph.leaky(graph.conv(x, weight, bias, pads=ALL_AROUND, stride=(2, 2)), slope)
    x = graph.node("Flatten", [x], axis=1)
    hidden = graph.leaky(graph.linear(x, *_folded(net.pos.hidden)), net.pos.hidden.slope)

    leave, leave_bias = _numbers(net.pos.leave.weight), _numbers(net.pos.leave.bias)
    into, into_bias = _numbers(net.vae.open.weight), _numbers(net.vae.open.bias)
    out, out_bias = _numbers(net.vae.leave.weight), _numbers(net.vae.leave.bias)
    latent = net.latent
    each = np.tile(np.eye(3), (joints, 1))
    opened = graph.linear(hidden, into @ leave[:latent], into @ leave_bias[:latent] + into_bias)
    offset = graph.linear(
        hidden, POSE_UNIT_MM * each @ leave[latent:], POSE_UNIT_MM * (each @ leave_bias[latent:] + out_bias)
    )
    flat = graph.linear(graph.leaky(opened, 0.01), POSE_UNIT_MM * out, plus=offset)
    shape = graph.constant(np.array([-1, joints, 3], np.int64))
    graph.node("Reshape", [flat, shape], name="joints_mm")
    return graph.to_bytes(input_px, joints)


def _filtered(graph: _Graph, x: str, convs: list[tuple[F64, F64]], *, rows: int, slope: float) -> str:
    """Three 6 x 6 convolutions of stride 2 with their leaky ReLUs, the first by minimal filtering."""
    (first, bias), (second, second_bias), (third, third_bias) = convs
    products = [_product(graph, x, first, k, rows) for k in range(6)]
    m0, m1, m2, m3, m4, m5 = products
    sum12, sum34 = graph.add(m1, m2), graph.add(m3, m4)
    apart12, apart34 = graph.add_scaled(m1, m2, -1), graph.add_scaled(m3, m4, -1)
    maps = [
        graph.add(graph.add(sum12, sum34), m0),
        graph.add_scaled(apart12, apart34, 2),
        graph.add_scaled(sum12, sum34, 4),
        graph.add(graph.add_scaled(apart12, apart34, 8), m5),
    ]
    y0, y1, y2, y3 = (graph.leaky(graph.scaled(y, 1, bias), slope) for y in maps)

    def taken(rows_of: list[tuple[str, list[int], Pads]], weight: F64, bias: F64) -> str:
        """Leaky ReLU of the sum of convolutions, each of some rows of the filter over one map."""
        parts = [graph.conv(y, weight[:, :, taps], pads=pads, stride=(1, 2)) for y, taps, pads in rows_of]
        total = parts[0]
        for part in parts[1:]:
            total = graph.add(total, part)
        return graph.leaky(graph.scaled(total, 1, bias), slope)

    here, above, below = (0, PAD, 0, PAD), (1, PAD, 0, PAD), (0, PAD, 1, PAD)
    # Row 2 n reads rows 4 n - 2 ... 4 n + 3, row 2 n + 1 reads 4 n ... 4 n + 5.
    even = taken([(y2, [0, 4], above), (y3, [1, 5], above), (y0, [2], here), (y1, [3], here)], second, second_bias)
    odd = taken([(y0, [0, 4], below), (y1, [1, 5], below), (y2, [2], here), (y3, [3], here)], second, second_bias)
    both = (1, PAD, 1, PAD)
    return taken([(even, [0, 2, 4], both), (odd, [1, 3, 5], both)], third, third_bias)


def _product(graph: _Graph, x: str, weight: F64, k: int, rows: int) -> str:
    """The k-th of the 6 products, (B, c, rows / 8, columns / 2): of even and of odd rows, added."""
    channels, parts = weight.shape[1], []
    for odd in (0, 1):
        # Of the 6 rows 8 n - 2 + odd + 2 i those with a factor, at equal steps.
        used = np.flatnonzero(B[k])
        step = int(np.gcd.reduce(np.diff(used)))
        taps = [B[k][i] for i in range(used[0], used[-1] + 1, step)]
        first = odd - PAD + 2 * int(used[0])
        while first > 0:  # a convolution cannot begin inside its input: a factor of 0 before the others
            taps, first = [0, *taps], first - 2 * step
        last = first + 2 * step * (len(taps) - 1)
        below = max(0, rows - 8 + last - (rows - 1))
        kernel = np.tile(np.array(taps, np.float64)[:, None], (channels, 1, 1, 1))
        data = graph.conv(x, kernel, pads=(-first, 0, below, 0), stride=(8, 1), dilation=2 * step, groups=channels)
        filters = np.einsum("t,oitx->oix", np.array(G[k]), weight[:, :, odd::2])[:, :, None]
        parts.append(graph.conv(data, filters, pads=(0, PAD, 0, PAD), stride=(1, 2)))
    return graph.add(*parts)


def _numbers(tensor: torch.Tensor) -> F64:
    return np.asarray(tensor.detach().cpu().numpy(), np.float64)


def _folded(layer: Layer) -> tuple[F64, F64]:
    """Weights and bias of a layer with its batch normalisation in them."""
    norm, inner = layer.norm, layer.inner
    assert isinstance(inner, torch.nn.Conv2d | torch.nn.Linear)
    scale = _numbers(norm.weight) / np.sqrt(_numbers(norm.variance) + 1e-5)
    weight = _numbers(inner.weight)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), _numbers(norm.bias) - _numbers(norm.mean) * scale


@dataclass(slots=True)
class _Graph:
    """A graph that grows; values go by their names."""

    channels: int
    """Of every map."""
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def node(self, kind: str, inputs: list[str], *, name: str | None = None, **attributes: Any) -> str:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(
        self,
        x: str,
        weight: F64,
        bias: F64 | None = None,
        *,
        pads: Pads = (0, 0, 0, 0),
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
    ) -> str:
        """`dilation` is that of the rows."""
        inputs = [x, self.constant(weight), *([] if bias is None else [self.constant(bias)])]
        return self.node(
            "Conv",
            inputs,
            kernel_shape=weight.shape[2:],
            pads=pads,
            strides=stride,
            dilations=(dilation, 1),
            group=groups,
        )

    def scaled(self, x: str, factor: float, bias: F64 | None = None) -> str:
        """`factor` x + bias: a depthwise convolution, which onnxruntime joins with what comes before and after."""
        return self.conv(x, np.full((self.channels, 1, 1, 1), float(factor)), bias, groups=self.channels)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", [a, b])

    def add_scaled(self, a: str, b: str, factor: float) -> str:
        """Of one value and `factor` times another."""
        return self.add(a, self.scaled(b, factor))

    def leaky(self, x: str, slope: float) -> str:
        return self.node("LeakyRelu", [x], alpha=slope)

    def linear(self, x: str, weight: F64, bias: F64 | None = None, *, plus: str | None = None) -> str:
        """Of x: x weight^T + bias, or + another value."""
        other = plus or (self.constant(bias) if bias is not None else None)
        return self.node("Gemm", [x, self.constant(weight), *([other] if other else [])], transB=1)

    def to_bytes(self, input_px: int, joints: int) -> bytes:
        crop = helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["batch", 1, input_px, input_px])
        out = helper.make_tensor_value_info("joints_mm", TensorProto.FLOAT, ["batch", joints, 3])
        graph = helper.make_graph(self.nodes, "crossing-nets", [crop], [out], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
