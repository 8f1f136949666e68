"""Statistics of one model on one text, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from weightsmith.engine.text_statistics.layered_model import LayeredModel
from weightsmith.engine.workers.on_threads import Stop, on_threads

_COLUMNS = 512  # of a Gram matrix that are computed at once
OnLayer = Callable[[int, int], None]  # layers done, layers in all


def collect_grams(
    model: LayeredModel, windows: Sequence[np.ndarray], threads: int, on_layer: OnLayer
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, str]]]:
    """For each layer: (the weight of a linear layer -> float32 [inputs, inputs], the mean of x x^T of what it is
    multiplied with; weights that are multiplied with the same as another one -> that one)."""
    hidden = model.enter(windows)
    for layer in range(len(model.layers)):
        inputs, same, hidden = model.inputs_of(layer, hidden)
        yield {name: gram(values, threads) for name, values in inputs.items()}, same
        on_layer(layer + 1, len(model.layers))


def gram(values: torch.Tensor, threads: int) -> torch.Tensor:
    """float32 [inputs, inputs]: the mean of x x^T over the rows x of float32 [tokens, inputs].

    >>> gram(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), threads=1)
    tensor([[1., 1.],
            [1., 2.]])
    """
    width = values.shape[1]
    found = torch.empty((width, width))

    def work(start: int, stop: Stop) -> None:
        columns = values[:, start : start + _COLUMNS]
        torch.mm(columns.T, values, out=found[start : start + _COLUMNS])

    for _ in on_threads(work, range(0, width, _COLUMNS), threads, tick=lambda: None):
        pass
    return found / max(1, len(values))


def collect_fisher(
    model: LayeredModel, windows: Sequence[np.ndarray], threads: int, seed: int, on_layer: OnLayer
) -> Iterator[dict[str, torch.Tensor]]:
    """For each layer, the last one first: parameter -> float32, the mean over the tokens of the square of the gradient
    of log p(y), where y is drawn from what the model predicts.

    The gradient of a whole window is squared: as y is drawn from the model, products of different tokens' gradients are
    zero in the mean."""
    levels = [model.enter(windows)]
    depth = len(model.layers)
    for layer in range(depth):
        levels.append(model.run(layer, levels[-1]))
    gradients = _gradients_behind_layers(model, levels.pop(), windows, threads, seed)
    tokens = sum(map(len, windows))
    for layer in reversed(range(depth)):
        squares, gradients = _through_layer(model, layer, levels.pop(), gradients, threads)
        yield {name: total / tokens for name, total in squares.items()}
        on_layer(depth - layer, depth)


def _gradients_behind_layers(
    model: LayeredModel, hidden: list[torch.Tensor], windows: Sequence[np.ndarray], threads: int, seed: int
) -> list[torch.Tensor]:
    """The gradient of each window's log-likelihood by the hidden states behind the last layer."""
    with model.only_ends() as logits_of:

        def work(number: int, stop: Stop) -> tuple[int, torch.Tensor]:
            with torch.enable_grad():
                leaf = hidden[number].clone().requires_grad_(True)
                log_p = logits_of(leaf, windows[number])[0].float().log_softmax(-1)
                generator = torch.Generator().manual_seed((seed << 20) + number)
                drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
                (gradient,) = torch.autograd.grad(log_p.gather(1, drawn).sum(), leaf)
            return number, gradient

        found = on_threads(work, range(len(windows)), threads, tick=lambda: None)
        return [gradient for _, gradient in sorted(found, key=lambda pair: pair[0])]


def _through_layer(
    model: LayeredModel, layer: int, hidden: list[torch.Tensor], gradients: list[torch.Tensor], threads: int
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """(parameter -> the sum over windows of squared gradients, each window's gradient by the layer's input)."""
    parameters = dict(model.layers[layer].named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    squares = {name: torch.zeros_like(parameter.detach()) for name, parameter in parameters.items()}

    def work(number: int, stop: Stop) -> tuple[int, tuple[torch.Tensor | None, ...]]:
        with torch.enable_grad():
            leaf = hidden[number].clone().requires_grad_(True)
            out = model.forward(layer, leaf)
            return number, torch.autograd.grad(out, [leaf, *parameters.values()], gradients[number], allow_unused=True)

    below: list[torch.Tensor] = []
    for start in range(0, len(hidden), threads):  # as many at once as there are threads: each has all gradients
        some = range(start, min(start + threads, len(hidden)))
        for _, (by_hidden, *by_parameter) in sorted(
            on_threads(work, some, threads, tick=lambda: None), key=lambda pair: pair[0]
        ):
            assert by_hidden is not None
            below.append(by_hidden)
            for total, gradient in zip(squares.values(), by_parameter, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return {f"{model.prefix}{layer}.{name}": total for name, total in squares.items()}, below
