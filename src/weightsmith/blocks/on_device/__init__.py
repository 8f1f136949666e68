"""What kernels do, in torch, where the inputs are on a device: the same numbers, bit for bit, but for sums of float64,
which add in another order."""
