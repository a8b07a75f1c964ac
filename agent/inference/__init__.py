"""From a camera's frames to decided labels: the threads, and the books on every frame."""
