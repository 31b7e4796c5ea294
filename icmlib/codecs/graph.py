"""A decoder as a graph, and which inputs an output of each of its layers sees."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from compressai.layers import GDN, GDN1
from torch import fx, nn


class NotLocalError(ValueError):
    """A layer of the decoder that may look at the whole map; the message names it."""

    def __init__(self, name: str, what: object):
        super().__init__(f"decoder layer {name} cannot be decoded in patches: {what}")


# --- layers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """Which inputs an output sees, by row and column: each field is an int or both ints (2,).

    `up - 1` zeros are put between the inputs and `pad` around them (`extra` more at the far end);
    over these slides, in steps of `down`, a kernel whose last tap is `span` after its first.
    """

    up: np.ndarray | int = 1
    down: np.ndarray | int = 1
    pad: np.ndarray | int = 0
    span: np.ndarray | int = 0
    extra: np.ndarray | int = 0

    def output_size(self, size: np.ndarray) -> np.ndarray:
        padded = (size - 1) * self.up + 2 * self.pad + self.extra
        return (padded - self.span) // self.down + 1

    def input_range(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [low, high) that the outputs first..last see; may reach beyond the map."""
        first, last = first * self.down, last * self.down
        low = -((self.pad - first) // self.up)
        high = (last - self.pad + self.span) // self.up + 1
        # run on a window, a layer that trims its output must also reach from first to last
        reach = self.span - 2 * self.pad - self.extra
        return np.minimum(low, first // self.up), np.maximum(high, 1 - (-last - reach) // self.up)


POINTWISE = Sampling()
POINTWISE_LAYERS = (
    *(GDN, GDN1, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
)
POINTWISE_FUNCTIONS = set(
    "add sub mul truediv div neg abs pow square exp sqrt rsqrt maximum minimum clamp sigmoid tanh "
    "relu leaky_relu elu gelu silu softplus iadd isub imul itruediv add_ sub_ mul_ div_ relu_ "
    "clamp_ sigmoid_ tanh_".split()
)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def enlarging(factor: int | tuple[int, int]) -> Sampling:
    """Each input becomes a block of factor x factor outputs."""
    factor = np.array(factor, dtype=int)
    return Sampling(up=factor, pad=factor - 1, span=factor - 1)


def resizing(size: object, factor: object, mode: str) -> Sampling | None:
    whole = size is None and bool((np.mod(factor, 1) == 0).all())
    return enlarging(factor) if whole and mode == "nearest" else None


def convolution(layer: nn.Conv2d) -> Sampling | None:
    stride, span = np.array(layer.stride), _span(layer)
    if layer.padding_mode != "zeros":
        return None
    if layer.padding == "same":
        return Sampling(pad=span // 2, span=span, extra=span % 2)
    pad = 0 if layer.padding == "valid" else np.array(layer.padding)
    return Sampling(down=stride, pad=pad, span=span)


def transposed_convolution(layer: nn.ConvTranspose2d) -> Sampling:
    span, extra = _span(layer), np.array(layer.output_padding)
    return Sampling(np.array(layer.stride), 1, span - np.array(layer.padding), span, extra)


def _span(layer: nn.Module) -> np.ndarray:
    return np.array(layer.dilation) * (np.array(layer.kernel_size) - 1)


# by `forward`, which a subclass may inherit or replace
LAYERS: dict[Callable, Callable[[nn.Module], Sampling | None]] = {
    **{kind.forward: lambda layer: POINTWISE for kind in POINTWISE_LAYERS},
    nn.Conv2d.forward: convolution,
    nn.ConvTranspose2d.forward: transposed_convolution,
    nn.PixelShuffle.forward: lambda layer: enlarging(layer.upscale_factor),
    nn.Upsample.forward: lambda layer: resizing(layer.size, layer.scale_factor, layer.mode),
}


def function_sampling(node: fx.Node) -> Sampling | None:
    """The same for a function or a method that the decoder calls; None if it is not known."""
    name = getattr(node.target, "__name__", node.target)
    if name in POINTWISE_FUNCTIONS:
        return POINTWISE
    if name in ("cat", "concat"):
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return POINTWISE if dim in (1, -3) else None
    if name == "pixel_shuffle":
        return enlarging(node.kwargs.get("upscale_factor") or node.args[1])
    if name == "interpolate":
        return resizing(*(node.kwargs.get(key) for key in ("size", "scale_factor", "mode")))
    return None


def upsamples(layer: nn.Module) -> bool:
    """Whether the layer's map is larger than its input by a factor."""
    if isinstance(layer, nn.ConvTranspose2d):
        return max(layer.stride) > 1
    return isinstance(layer, nn.PixelShuffle | nn.Upsample)


# --- the graph ---------------------------------------------------------------------------


def _recorded(function: Callable) -> Callable:
    return lambda self, other: self.tracer.create_proxy(
        "call_function", function, (self, other), {}
    )


class _Proxy(fx.Proxy):
    """Knows `x += y` from `x = x + y`, which torch.fx takes it for."""

    __iadd__, __isub__, __imul__, __itruediv__ = map(_recorded, IN_PLACE)


class _Tracer(fx.Tracer):
    inside = "forward"  # the layer being traced

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module).forward in LAYERS or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, *arguments) -> object:
        outside, self.inside = (
            self.inside,
            f"{self.path_of_module(module)} ({type(module).__name__})",
        )
        result = super().call_module(module, *arguments)
        self.inside = outside
        return result


def trace(decoder: nn.Module) -> fx.Graph:
    """The decoder's graph, in which no value changes once it is made.

    Raises:
        NotLocalError: its Python code depends on values, or takes more than latents.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(decoder)
    except Exception as error:  # whatever the decoder's code makes of a proxy
        raise NotLocalError(tracer.inside, f"it cannot be traced ({error})") from error
    nodes = list(graph.nodes)
    if sum(node.op == "placeholder" for node in nodes) != 1:
        raise NotLocalError("forward", "it takes more than latents")
    for index, node in enumerate(nodes):
        module = decoder.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Identity):
            node.replace_all_uses_with(node.all_input_nodes[0])
        elif _in_place(node, module):
            later = set(nodes[index + 1 :])
            node.all_input_nodes[0].replace_all_uses_with(node, later.__contains__)
    for node in reversed(nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    named = str(getattr(node.target, "__name__", node.target)).endswith("_")
    named &= node.op in ("call_function", "call_method")
    inplace = getattr(module, "inplace", False) or node.kwargs.get("inplace", False)
    return named or inplace or node.target in IN_PLACE


def call(decoder: nn.Module, node: fx.Node, args: tuple, kwargs: dict) -> object:
    """The node's value, given those of its inputs."""
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(decoder)
    if node.op == "call_module":
        return decoder.get_submodule(node.target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def layer_name(decoder: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({decoder.get_submodule(node.target)})"
    return ".".join([*list(node.meta.get("nn_module_stack", {}))[-1:], node.name])


def node_sampling(decoder: nn.Module, node: fx.Node) -> Sampling:
    """Raises NotLocalError, where the node cannot be run on windows."""
    sampling = POINTWISE
    if node.op == "call_module":
        layer = decoder.get_submodule(node.target)
        sampling = LAYERS.get(type(layer).forward, lambda layer: None)(layer)
    elif node.op in ("call_function", "call_method"):
        sampling = function_sampling(node)
    elif node.op == "get_attr":
        shape = call(decoder, node, (), {}).shape
        sampling = POINTWISE if max(shape[-2:], default=1) == 1 else None
    elif node.op == "output" and not isinstance(node.args[0], fx.Node):
        sampling = None
    if sampling is None:
        raise NotLocalError(layer_name(decoder, node), "it is not known to be local")
    return sampling
