"""Chance that decides the same for the same frame, whenever and in whatever order it is asked."""

from __future__ import annotations

import hashlib


def draw(key: str, purpose: str) -> float:
    """A number of 0 or more and less than 1, evenly spread over the keys.

    Args:
        key: of the frame.
        purpose: what is decided; draws for other purposes are independent of this one.

    Raises:
        ValueError: an empty key, by which all frames would be decided alike.
    """
    if not key:
        raise ValueError(f"{purpose}: a random choice needs the frame's key, the digest of its image")
    digest = hashlib.blake2b(f"{purpose}/{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
