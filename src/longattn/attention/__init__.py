"""First and second moments of causal attention rows at a distance, by several kernels behind one signature.

Letters in shapes: B windows, R query rows, T keys, H query heads, G key heads (H is a multiple of G), K head size,
D distances.
"""

from longattn.attention._moments import RowMoments, cpu_kernel, row_moments

__all__ = ["RowMoments", "cpu_kernel", "row_moments"]
