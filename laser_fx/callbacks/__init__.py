"""What a compiled model does while it trains, as scalars for TensorBoard and whatever else takes them."""

from laser_fx.callbacks.callback import LaserCallback
from laser_fx.callbacks.scalars import scalars
from laser_fx.callbacks.writers import ScalarWriter

__all__ = ["LaserCallback", "ScalarWriter", "scalars"]
