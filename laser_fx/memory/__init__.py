"""What a model keeps and computes, measured."""

from laser_fx.memory.measure import flops, saved_bytes

__all__ = ["flops", "saved_bytes"]
