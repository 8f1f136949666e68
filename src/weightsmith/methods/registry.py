"""All merge methods by the name a recipe uses."""

from weightsmith.methods.linear import Linear
from weightsmith.methods.method import Method
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.slerp import Slerp
from weightsmith.methods.task_arithmetic import TaskArithmetic
from weightsmith.methods.ties import Ties

METHODS: dict[str, Method] = {m.name: m() for m in (Linear, TaskArithmetic, Ties, Slerp, Passthrough)}
