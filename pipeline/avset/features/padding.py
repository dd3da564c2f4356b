"""Batch sizes whose rows come out the same wherever they stand. Without torch: a stage asks before it needs that."""

LANES = 16  # matrix kernels, and threads, treat the rows of a ragged edge otherwise


def whole(batch_size: int) -> int:
    """The batch size rounded up to a multiple of 16.

    Rows of such batches come out the same to the byte wherever they stand, on one thread or several (CPU).
    """
    return -(-batch_size // LANES) * LANES
