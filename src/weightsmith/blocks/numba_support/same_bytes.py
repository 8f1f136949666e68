"""An array's bytes as numbers of another dtype, in compiled loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


@intrinsic
def _same_bytes(typing_context, array, dtype):
    of_dtype = types.Array(dtype.instance_type, 1, "C")

    def generate(context, builder, signature, arguments):
        values = make_array(signature.args[0])(context, builder, arguments[0])
        viewed = make_array(of_dtype)(context, builder)
        item = context.get_constant(types.intp, of_dtype.dtype.bitwidth // 8)
        nbytes = builder.mul(values.nitems, values.itemsize)
        populate_array(
            viewed,
            data=builder.bitcast(values.data, viewed.data.type),
            shape=[builder.udiv(nbytes, item)],
            strides=[item],
            itemsize=item,
            meminfo=values.meminfo,
            parent=values.parent,
        )
        return impl_ret_borrowed(context, builder, of_dtype, viewed._getvalue())

    return of_dtype(array, dtype), generate


def _view(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.view(dtype)


same_bytes = _view if TYPE_CHECKING else _same_bytes
"""`array.view(dtype)` of a contiguous array [n], which is taken to be a whole number of items long. numba's own `view`
compiles its checks each time, for half a second."""
