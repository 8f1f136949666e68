"""A live causal model run layer by layer: what enters each layer, what each linear layer of it is multiplied with, and
gradients, with the memory of one layer.

What a layer is called with beside the hidden states (masks, positions) is taken from one run of the whole model for
each length; that this is all, is checked on another window.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from weightsmith.engine.workers.on_threads import on_threads
from weightsmith.errors import MergeError

Thing = TypeVar("Thing")
Result = TypeVar("Result")

_TOLERANCE = 1e-3  # of the largest hidden state: float32, in another order of operations


class _Entered(Exception):
    """The hidden states have come to the first layer; the rest of the run is not needed."""


class LayeredModel:
    """`live`: a causal model of `transformers` in float32; `reference`: its name in messages."""

    def __init__(self, live: Any, reference: str, threads: int) -> None:
        self.live, self.reference, self._threads = live, reference, threads
        self.prefix, self._list = _stack_of(live, reference)
        self.layers: list[nn.Module] = list(self._list)
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}  # by the length of a window
        self._gives_tuples = False

    def enter(self, windows: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """The hidden states [1, tokens, width] of each window before the first layer. Raises MergeError where a layer
        depends on more than hidden states and positions."""
        with torch.no_grad():
            for window in windows:
                if len(window) not in self._calls:
                    self._learn_calls(window)
        found = threading.local()

        def take(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            found.hidden = args[0] if args else options["hidden_states"]
            raise _Entered

        def step(window: np.ndarray) -> torch.Tensor:
            with torch.no_grad():
                try:
                    self.live(input_ids=_ids(window), use_cache=False)
                except _Entered:
                    return found.hidden
            raise AssertionError("the hook was not called")

        handle = self.layers[0].register_forward_pre_hook(take, with_kwargs=True)
        try:
            hidden_states = self._each(step, windows)
        finally:
            handle.remove()
        self._check(windows[-1], hidden_states[-1])
        return hidden_states

    def forward(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """What one layer gives for the hidden states of one window."""
        args, options = self._calls[hidden.shape[1]][layer]
        out = self.layers[layer](hidden, *args, **options)
        return out[0] if isinstance(out, tuple) else out

    def run(self, layer: int, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What one layer gives for each window."""

        def step(one: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.forward(layer, one)

        return self._each(step, hidden)

    def inputs_of(
        self, layer: int, hidden: Sequence[torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, str], list[torch.Tensor]]:
        """(linear layer -> float32 [tokens, inputs] of what its weight is multiplied with, over all windows; the names
        of those that have the same input as another one -> that one; what the layer gives). Names are those of
        weights, in the whole model."""
        linear = dict(self._linear_layers(layer))
        seen = threading.local()

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.inputs.append((module, inputs[0]))

        def step(one: torch.Tensor) -> tuple[list[tuple[nn.Module, torch.Tensor]], torch.Tensor]:
            seen.inputs = []
            with torch.no_grad():
                out = self.forward(layer, one)
            return seen.inputs, out

        handles = [module.register_forward_pre_hook(note) for module in linear.values()]
        try:
            results = self._each(step, hidden)
        finally:
            for handle in handles:
                handle.remove()
        names = {module: name for name, module in linear.items()}
        same = _shared_inputs([noted for noted, _ in results], names)
        gathered: dict[str, list[torch.Tensor]] = {}
        for noted, _ in results:
            for module, value in noted:
                if (name := names[module]) not in same:
                    gathered.setdefault(name, []).append(value.reshape(-1, value.shape[-1]))
        return {name: torch.cat(parts) for name, parts in gathered.items()}, same, [out for _, out in results]

    @contextmanager
    def only_ends(self) -> Iterator[Callable[[torch.Tensor, np.ndarray], torch.Tensor]]:
        """A function of hidden states behind the last layer and their tokens to logits [1, tokens, vocabulary]: the
        layers are passed over meanwhile."""
        given = threading.local()
        for number, layer in enumerate(self.layers):
            self._list[number] = _PassedOver(layer, given, self._gives_tuples)

        def logits(hidden: torch.Tensor, window: np.ndarray) -> torch.Tensor:
            given.hidden = hidden
            return self.live(input_ids=_ids(window), use_cache=False).logits

        try:
            yield logits
        finally:
            for number, layer in enumerate(self.layers):
                self._list[number] = layer

    def _linear_layers(self, layer: int) -> Iterator[tuple[str, nn.Module]]:
        from transformers.pytorch_utils import Conv1D

        for name, module in self.layers[layer].named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                yield f"{self.prefix}{layer}.{name}.weight", module

    def _learn_calls(self, window: np.ndarray) -> None:
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            calls.append((args[1:], {key: value for key, value in options.items() if key != "hidden_states"}))

        def note_form(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            self._gives_tuples = isinstance(out, tuple)

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        handles.append(self.layers[-1].register_forward_hook(note_form))
        try:
            self.live(input_ids=_ids(window), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if len(calls) != len(self.layers):
            raise MergeError(
                f"{self.reference}: {type(self.live).__name__} does not run its {len(self.layers)} layers one after "
                "the other, which methods that read text need; take a method without text"
            )
        self._calls[len(window)] = calls

    def _check(self, window: np.ndarray, hidden: torch.Tensor) -> None:
        """That the layers one by one give what the model as a whole does."""
        last: list[torch.Tensor] = []

        def take(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            last.append(out[0] if isinstance(out, tuple) else out)

        handle = self.layers[-1].register_forward_hook(take)
        with torch.no_grad():
            try:
                self.live(input_ids=_ids(window), use_cache=False)
            finally:
                handle.remove()
            for layer in range(len(self.layers)):
                hidden = self.forward(layer, hidden)
            apart = float((hidden - last[0]).abs().max() / last[0].abs().max().clamp(min=1e-30))
        if not apart < _TOLERANCE:
            raise MergeError(
                f"{self.reference}: the layers of {type(self.live).__name__} depend on more than hidden states and "
                "positions, so that methods that read text cannot run them one by one; take a method without text"
            )

    def _each(self, work: Callable[[Thing], Result], things: Sequence[Thing]) -> list[Result]:
        """The result for each, in order; one thread computes each, so that the bytes do not depend on how many threads
        there are."""
        results = on_threads(
            lambda pair, stop: (pair[0], work(pair[1])), list(enumerate(things)), self._threads, tick=lambda: None
        )
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]


class _PassedOver(nn.Module):
    """Stands for a layer, and gives what is set; anything else that is asked of it, the layer answers."""

    def __init__(self, layer: nn.Module, given: threading.local, as_tuple: bool) -> None:
        super().__init__()
        self.__dict__["_stood_for"] = layer
        self._given, self._as_tuple = given, as_tuple

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_stood_for"], name)

    def forward(self, *args: Any, **options: Any) -> Any:
        return (self._given.hidden,) if self._as_tuple else self._given.hidden


def _stack_of(live: Any, reference: str) -> tuple[str, nn.ModuleList]:
    """(`model.layers.`, the layers)."""
    depth = live.config.get_text_config().num_hidden_layers
    for name, module in live.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return f"{name}.", module
    raise MergeError(
        f"{reference}: {type(live).__name__} has no list of {depth} layers, which methods that read text need; take a "
        "method without text"
    )


def _ids(window: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(window, np.int64)).unsqueeze(0)


def _shared_inputs(
    noted: Sequence[Sequence[tuple[nn.Module, torch.Tensor]]], names: dict[nn.Module, str]
) -> dict[str, str]:
    """Linear layers whose input is, in every window, that of an earlier one."""
    firsts: dict[str, set[str]] = {}
    for one_window in noted:
        first: dict[tuple[int, tuple[int, ...]], str] = {}
        for module, value in one_window:
            name = names[module]
            firsts.setdefault(name, set()).add(first.setdefault((value.data_ptr(), tuple(value.shape)), name))
    called = {name: sum(name == names[module] for window in noted for module, _ in window) for name in firsts}
    return {
        name: next(iter(of))
        for name, of in firsts.items()
        if len(of) == 1 and name not in of and called[name] == called[next(iter(of))]
    }
