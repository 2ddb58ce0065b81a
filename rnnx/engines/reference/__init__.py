"""The reference engine. Read `engine`, `loops`, `products` in this order."""

from rnnx.engines.reference.engine import ENGINE

__all__ = ["ENGINE"]
