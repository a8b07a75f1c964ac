"""Runs one matrix product with PyTorch and prints version and device as JSON."""

from __future__ import annotations

import json

import torch


def main() -> None:
    """Print the version of PyTorch and whether CUDA computes."""
    is_cuda = bool(torch.cuda.is_available())
    device = "cuda" if is_cuda else "cpu"
    ones = torch.ones((8, 8), device=device)
    answer = {"version": str(torch.__version__), "cuda": is_cuda, "right": float((ones @ ones)[0, 0]) == 8.0}
    print(json.dumps(answer))  # noqa: T201 the answer


if __name__ == "__main__":
    main()
