"""A stretch of an array's bytes as numbers of another dtype, in compiled loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


@intrinsic
def _stretch(typing_context, array, dtype, first, count):
    of_dtype = types.Array(dtype.instance_type, 1, "C")

    def generate(context, builder, signature, arguments):
        values = make_array(signature.args[0])(context, builder, arguments[0])
        viewed = make_array(of_dtype)(context, builder)
        data = builder.bitcast(values.data, viewed.data.type)
        populate_array(
            viewed,
            data=builder.gep(data, [arguments[2]], inbounds=True),
            shape=[arguments[3]],
            strides=[context.get_constant(types.intp, of_dtype.dtype.bitwidth // 8)],
            itemsize=context.get_constant(types.intp, of_dtype.dtype.bitwidth // 8),
            meminfo=values.meminfo,
            parent=values.parent,
        )
        return impl_ret_borrowed(context, builder, of_dtype, viewed._getvalue())

    return of_dtype(array, dtype, types.intp, types.intp), generate


def _view(array: np.ndarray, dtype: Any, first: int, count: int) -> np.ndarray:
    return array.reshape(-1).view(dtype)[first : first + count]


stretch = _view if TYPE_CHECKING else _stretch
"""`array.reshape(-1).view(dtype)[first : first + count]` of a contiguous array, which is taken to be long enough. numba
compiles the checks of its own `view` for half a second, and those of every slice for some hundredths."""
