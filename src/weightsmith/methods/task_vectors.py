"""What task arithmetic and TIES share: the parameters of task vectors (fine-tune minus base)."""

from weightsmith.methods.method import Parameter

NEARLY_ZERO = 1e-8  # mergekit's bound for a sum of weights that cannot be divided by


def task_vector_parameters(*, normalize: bool) -> tuple[Parameter, ...]:
    return (
        Parameter("weight", float, "non_base", "factor on this model's task vector"),
        Parameter(
            "density", float, "non_base", "share of the task vector that is kept", default=1.0, above=0.0, at_most=1.0
        ),
        Parameter("normalize", bool, "shared", "divide by the sum of the weights that took part", default=normalize),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=1.0),
        Parameter("rescale", bool, "shared", "after trimming, restore the task vector's l1 norm", default=False),
        Parameter("int8_mask", bool, "shared", "accepted for mergekit's recipes; changes no number", default=False),
    )
