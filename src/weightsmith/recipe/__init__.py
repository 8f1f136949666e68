"""The YAML recipe: its schema, its parameters, and the plan it resolves to."""

from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import Plan, TensorPlan, make_plan

__all__ = ["Plan", "TensorPlan", "load_recipe", "make_plan"]
