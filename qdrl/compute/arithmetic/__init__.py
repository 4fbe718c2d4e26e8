"""Portable arithmetic: networks and elementary functions that give the same bits on every x86-64 processor.

IEEE 754 fixes the results of +, -, *, / and the square root. It leaves open the order of a sum, the use of fused
multiply-add and the value of tanh; libraries choose them by processor. The kernels here fix them: sums have a defined
order, every product is rounded before it is added, and functions are polynomials. Vector units may compute several
outputs at once without changing the operations of any of them.
"""

from typing import Literal

Arithmetic = Literal["portable-1", "blas", "torch"]
"""How a policy's numbers are computed; a file stores it in `/meta/policy`.

- "portable-1": the kernels of this package.
- "blas": the processor's BLAS and mathematical libraries, as in files of formats 1.0 and 1.1.
- "torch": torch's operations, on a GPU.
"""

PORTABLE: Arithmetic = "portable-1"
BLAS: Arithmetic = "blas"
TORCH: Arithmetic = "torch"
