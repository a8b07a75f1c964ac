"""Where events wait until the broker has confirmed them."""
