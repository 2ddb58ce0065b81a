"""The product with a whole packed matrix, for Numba. See `passes` for the conventions."""

from rnnx.engines.cpu.codegen.intrinsics import call_product
from rnnx.engines.cpu.loops.examples import vectors_of
from rnnx.engines.cpu.loops.records import function


@function
def add_product(p, product, w, columns, n_k, h, h_row, h_k, rows, init, init_row, z, z_row):
    """Compute z = init + h w for a packed w (n_k, columns); init_row = 0 repeats one row."""
    vectors = vectors_of(p, columns)
    call_product(
        product, w=w, n_vectors=vectors, v0=0, v1=vectors, n_k=n_k, h=h, h_row=h_row, h_k=h_k, rows=rows,
        init=init, init_row=init_row, z=z, z_row=z_row, tail=columns % p.lanes, back=0, w_row=0,
    )  # fmt: skip
