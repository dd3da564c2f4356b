"""Batch sizes at which a row has the same bytes wherever it stands. No torch: a stage asks before it needs torch."""

LANES = 16  # matrix kernels and threads compute the rows of a ragged edge in another way


def padded_size(batch_size: int) -> int:
    """The batch size rounded up to a multiple of 16.

    On the CPU a row of such a batch has the same bytes wherever it stands, on one thread or several.
    """
    return -(-batch_size // LANES) * LANES
