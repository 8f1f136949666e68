"""A merge method of one's own: one decorated function, whose signature is its documentation."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from weightsmith.blocks.block import Block
from weightsmith.errors import MergeError
from weightsmith.methods.method import REQUIRED, Method, Parameter, Statistics
from weightsmith.methods.registry import METHODS, add_method
from weightsmith.methods.tensor_settings import Settings

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])
Shared = Annotated[Value, "shared"]  # one value for a tensor
PerModel = Annotated[list[Value], "non_base"]  # one value for each model but the base, in the order of `Block.others`
_SCOPES: dict[str, Literal["shared", "non_base"]] = {"shared": "shared", "non_base": "non_base"}


def default(value: float | bool) -> Any:
    """The default of a `PerModel` parameter, the same for every model.

    >>> @ws.merge_method()
    ... def plain_sum(block: ws.Block, weight: ws.PerModel[float] = ws.default(1.0)):
    ...     "The weighted sum of all models."
    ...     return sum(w * row for w, row in zip(weight, block.others))
    >>> recipe = ws.Recipe(merge_method="plain_sum", models=[{"model": "coder"}, {"model": "writer"}])
    >>> sorted(ws.merge(recipe))[0]
    'model.embed_tokens.weight'
    """
    return value


def merge_method(
    *,
    name: str | None = None,
    paper: str = "",
    needs_base: bool = False,
    models: tuple[int, int | None] = (1, None),
    whole_rows: bool = False,
) -> Callable[[Function], Function]:
    """Make a function a merge method, which recipes then name.

    The function gets a `Block`, the same stretch of every model's tensor, and the recipe's parameters: those annotated
    `Shared[float]` or `Shared[bool]` have one value, `PerModel[float]` a list with one for each row of `block.others`.
    A parameter without a default has to be in the recipe. It returns the merged stretch, float [n]; it is called from
    several threads, for one stretch after the other, so it must not look beyond the one it gets.

    `name`: in recipes, by default the function's; `paper`: where the method is from; `needs_base`: a recipe has to have
    a base model; `models`: fewest and most, the base among them; `whole_rows`: stretches hold whole rows of a matrix.
    A package brings its methods along with the entry-point group `weightsmith.methods`. Raises TypeError for a
    signature that is not of that kind, and RecipeError where another method has the name.

    >>> @ws.merge_method(needs_base=True)
    ... def halfway(block: ws.Block, t: ws.Shared[float] = 0.5):
    ...     "Between the base and the mean of the others."
    ...     return block.base.lerp(block.others.mean(0), t)
    >>> recipe = ws.Recipe(merge_method="halfway", base_model="base", models=[{"model": "coder"}, {"model": "writer"}])
    >>> ws.merge(recipe)["model.norm.weight"].shape
    torch.Size([64])
    """

    def decorate(function: Function) -> Function:
        method = _method_of(
            function,
            {
                "name": name or function.__name__,
                "title": (inspect.getdoc(function) or function.__name__).splitlines()[0],
                "__doc__": inspect.getdoc(function),
                "paper": paper,
                "needs_base": needs_base,
                "inputs": models,
                "row_wise": whole_rows,
            },
        )
        known = METHODS.get(method.name)
        if isinstance(known, FunctionMethod) and known.origin == method.origin:
            del METHODS[method.name]  # a notebook's cell, run again
        add_method(method)
        return function

    return decorate


class FunctionMethod(Method):
    """A decorated function as a method. `origin`: its module and name."""

    function: ClassVar[Callable[..., Any]]
    origin: ClassVar[tuple[str, str]]

    @property
    def identity(self) -> str:
        """A digest of the function's source: a run does not resume with another one."""
        try:
            content = inspect.getsource(self.function).encode()
        except (OSError, TypeError):  # it was typed in
            code = self.function.__code__  # type: ignore[attr-defined]
            content = code.co_code + repr((code.co_consts, code.co_names)).encode()
        return hashlib.sha256(content).hexdigest()

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        import torch

        arguments = {
            parameter.name: settings.shared[parameter.name]
            if parameter.scope == "shared"
            else [settings.per_input[i][parameter.name] for i in settings.others]
            for parameter in self.parameters
        }
        try:
            merged = type(self).function(block, **arguments)
        except Exception as error:  # whatever somebody else's function raises
            raise MergeError(f"the merge method {self.name!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(merged, torch.Tensor) or merged.shape != block.out.shape:
            got = list(merged.shape) if isinstance(merged, torch.Tensor) else type(merged).__name__
            raise MergeError(
                f"the merge method {self.name!r} returned {got}; it has to return a tensor of shape "
                f"{list(block.out.shape)}, one element for each of the block's"
            )
        return merged.to(torch.float32)


def _method_of(function: Callable[..., Any], members: Mapping[str, Any]) -> FunctionMethod:
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments:
        raise TypeError(f"{function.__name__}: its first parameter has to be the block")
    hints = get_type_hints(function, include_extras=True)
    parameters = tuple(_parameter(argument, hints.get(argument.name), function) for argument in arguments[1:])
    content = {
        **members,
        "parameters": parameters,
        "function": staticmethod(function),
        "origin": (function.__module__, function.__qualname__),
    }
    return type(f"{function.__name__}_method", (FunctionMethod,), content)()


def _parameter(argument: inspect.Parameter, hint: Any, function: Callable[..., Any]) -> Parameter:
    value_type, scope = None, None
    if get_origin(hint) is Annotated:
        value_type, scope = get_args(hint)[:2]
        if scope == "non_base" and get_origin(value_type) is list:
            (value_type,) = get_args(value_type)
    if value_type not in (float, bool) or scope not in _SCOPES:
        raise TypeError(
            f"{function.__name__}: the parameter {argument.name!r} is annotated {hint}; write Shared[float], "
            "Shared[bool] or PerModel[float]"
        )
    value = REQUIRED if argument.default is inspect.Parameter.empty else argument.default
    return Parameter(argument.name, value_type, _SCOPES[scope], f"a parameter of {function.__name__}", value)
