"""All merge methods by the name a recipe uses: ours, and those that other packages bring."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from weightsmith.errors import RecipeError
from weightsmith.methods.composed.core_space import CoreSpace
from weightsmith.methods.composed.knots import Knots
from weightsmith.methods.composed.ortho_merge import OrthoMerge
from weightsmith.methods.composed.rules import MATRIX_METHODS, TASK_VECTOR_METHODS
from weightsmith.methods.composed.svc import Svc
from weightsmith.methods.elementwise.arcee_fusion import ArceeFusion
from weightsmith.methods.elementwise.consensus import Consensus
from weightsmith.methods.elementwise.nearswap import NearSwap
from weightsmith.methods.elementwise.pcb import Pcb
from weightsmith.methods.elementwise.ram import Ram, RamPlus, RamPlusOfTensors
from weightsmith.methods.elementwise.sce import Sce
from weightsmith.methods.elementwise.weighted_median import WeightedMedian
from weightsmith.methods.from_text.fisher import Fisher
from weightsmith.methods.from_text.regmean import RegMean, RegMeanPlusPlus
from weightsmith.methods.linear import Linear
from weightsmith.methods.method import Method
from weightsmith.methods.model_stock import ModelStock
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.spherical.karcher import Karcher
from weightsmith.methods.spherical.multislerp import MultiSlerp
from weightsmith.methods.spherical.nuslerp import NuSlerp
from weightsmith.methods.spherical.slerp import Slerp

_CLASSES = (
    Linear,
    *TASK_VECTOR_METHODS,
    Ram,
    RamPlusOfTensors,
    RamPlus,
    Pcb,
    Sce,
    Consensus,
    WeightedMedian,
    ModelStock,
    Slerp,
    NuSlerp,
    MultiSlerp,
    Karcher,
    NearSwap,
    ArceeFusion,
    *MATRIX_METHODS,
    Knots,
    Svc,
    CoreSpace,
    OrthoMerge,
    RegMean,
    RegMeanPlusPlus,
    Fisher,
    Passthrough,
)
METHODS: dict[str, Method] = {method_class.name: method_class() for method_class in _CLASSES}
PLUGINS = "weightsmith.methods"  # the entry-point group of packages that bring methods


def find_method(name: str) -> Method | None:
    """The method of that name; an installed package may bring it. None where there is none. Raises RecipeError where a
    package cannot be imported."""
    if name not in METHODS:
        _load_plugins()
    return METHODS.get(name)


def method_names() -> list[str]:
    """Of all methods, those of installed packages too. Raises RecipeError where a package cannot be imported."""
    _load_plugins()
    return list(METHODS)


def parameter_names() -> set[str]:
    """Of the parameters of all methods. Raises RecipeError where a package cannot be imported."""
    return {parameter.name for name in method_names() for parameter in METHODS[name].parameters}


def add_method(method: Method) -> None:
    """Raises RecipeError where another method has its name."""
    if METHODS.setdefault(method.name, method) is not method:
        raise RecipeError(f"there is a merge method {method.name!r} already; give this one another name")


@cache
def _load_plugins() -> None:
    """Importing a package's module adds its methods (`merge_method`)."""
    for entry_point in metadata.entry_points(group=PLUGINS):
        try:
            entry_point.load()
        except Exception as error:  # whatever somebody else's module raises
            package = entry_point.dist.name if entry_point.dist else entry_point.value
            raise RecipeError(
                f"the package {package} brings the merge method {entry_point.name!r} and cannot be imported: "
                f"{type(error).__name__}: {error}; mend or uninstall it"
            ) from error
