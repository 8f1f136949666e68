"""What kernels are compiled with: `kernel`, where machine code is kept, and what numba lacks."""
