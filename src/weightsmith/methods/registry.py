"""All merge methods by the name a recipe uses."""

from weightsmith.methods.linear import Linear
from weightsmith.methods.method import Method
from weightsmith.methods.model_stock import ModelStock
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.slerp import Slerp
from weightsmith.methods.task_vectors.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from weightsmith.methods.task_vectors.dare import DareLinear, DareTies
from weightsmith.methods.task_vectors.della import Della, DellaLinear
from weightsmith.methods.task_vectors.task_arithmetic import TaskArithmetic
from weightsmith.methods.task_vectors.ties import Ties

_CLASSES = (
    Linear,
    TaskArithmetic,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
    ModelStock,
    Slerp,
    Passthrough,
)
METHODS: dict[str, Method] = {method_class.name: method_class() for method_class in _CLASSES}
