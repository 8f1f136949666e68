"""All merge methods by the name a recipe uses."""

from weightsmith.methods.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from weightsmith.methods.dare import DareLinear, DareTies
from weightsmith.methods.della import Della, DellaLinear
from weightsmith.methods.linear import Linear
from weightsmith.methods.method import Method
from weightsmith.methods.model_stock import ModelStock
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.slerp import Slerp
from weightsmith.methods.task_arithmetic import TaskArithmetic
from weightsmith.methods.ties import Ties

_KINDS = (
    Linear, TaskArithmetic, Ties, DareLinear, DareTies, Della, DellaLinear, Breadcrumbs, BreadcrumbsTies, ModelStock, Slerp,
    Passthrough,
)  # fmt: skip
METHODS: dict[str, Method] = {kind.name: kind() for kind in _KINDS}
