"""A function of one tensor compiled for one shape.

Every shape has a compiled function of its own: torch keeps compiled variants on the code object and, after
eight of them, quietly runs the function uncompiled. Nothing here is tuned by timing, so that a second run
computes the same bits.
"""

import types
from collections.abc import Callable

import torch
from torch import Tensor

TensorFunction = Callable[[Tensor], Tensor]


def compile_for(function: TensorFunction, example: Tensor) -> TensorFunction:
    """Compiles a function for tensors like an example, and runs it once.

    On CPU the weights it holds are frozen into the compiled function, in the layout that the processor's
    library likes best. On CUDA it becomes one CUDA graph, captured here instead of by torch's own mode, which
    works in the compiling thread only.

    Args:
        function: Any function without side effects whose result depends on its argument alone.
        example: A tensor of the shape, type, layout and device to come.

    Returns:
        The compiled function. It is for such tensors only and must not be called by two threads at once.

    Raises:
        RuntimeError: It cannot be compiled as one graph; the message begins with the cause.
    """
    options: dict[str, str | int | bool | Callable[..., object]] = {}
    if example.device.type == "cpu":
        options["freezing"] = True
    compiled = torch.compile(_with_own_code(function), fullgraph=True, dynamic=False, options=options)
    compiled(example)
    return _as_cuda_graph(compiled, example) if example.device.type == "cuda" else compiled


def _with_own_code(function: TensorFunction) -> TensorFunction:
    def call(argument: Tensor) -> Tensor:
        return function(argument)

    return types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


def _as_cuda_graph(function: TensorFunction, example: Tensor) -> TensorFunction:
    with torch.cuda.device(example.device):
        static_input = example.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose and allocate here what capture would not allow
            function(static_input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            static_output = function(static_input)

    def replay(argument: Tensor) -> Tensor:
        static_input.copy_(argument)
        graph.replay()
        return static_output.clone()

    return replay
