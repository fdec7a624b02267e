"""Causal attention without the attention map: itself, moments of far attention, mass on spans of keys, the top keys.

Letters in shapes: B windows, R query rows, T keys, H query heads, G key heads (H is a multiple of G), K head size,
V value size, D distances, S spans of keys, M blocks of positions, C keys of a row that get most.
"""

from longattn.attention._moments import RowMoments, cpu_kernel, row_moments
from longattn.attention.attend import attend
from longattn.attention.far_view import FarView, HeadSet, far_view
from longattn.attention.spans import span_mass, top_keys

__all__ = [
    "FarView",
    "HeadSet",
    "RowMoments",
    "attend",
    "cpu_kernel",
    "far_view",
    "row_moments",
    "span_mass",
    "top_keys",
]
