"""Portable arithmetic: networks and elementary functions that give the same bits on every x86-64 processor.

IEEE 754 fixes the results of +, -, *, / and the square root. It leaves open the order of a sum, the use of fused
multiply-add and the value of tanh; libraries choose them by processor. The kernels here fix them: sums run in a written
order, every product is rounded before it is added, and functions are polynomials. Vector units may compute several
outputs at a time; the operations of each output stay the same.
"""

from typing import Literal

Arithmetic = Literal["portable-1", "blas", "torch"]
"""How a policy's numbers are computed; `/meta/policy` of a file names it.

"portable-1": the kernels of this package. "blas": the processor's BLAS and libraries, as in files of formats 1.0 and
1.1. "torch": torch's products, on a GPU.
"""

PORTABLE: Arithmetic = "portable-1"
BLAS: Arithmetic = "blas"
TORCH: Arithmetic = "torch"
