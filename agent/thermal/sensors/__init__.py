"""The seam to the hardware: one file for each source, the contract in ``base``, the choice in ``choose``."""
