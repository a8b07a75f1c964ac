"""Scripts that find out in a process of their own what this device can run, and the code that starts them."""
