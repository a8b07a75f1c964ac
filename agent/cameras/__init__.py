"""Cameras: each reads one source on a thread of its own and offers every frame to its routes.

sources         the kinds of source: files, streams, devices; ``sources.base`` is the contract
camera          the thread: opens the source, reads it, reconnects it
head_start      opens the source while the engines still load
frame_rate      detects a live camera that sends far fewer frames than it should
image_checks    detects black, frozen, covered and blurred frames
triggers        frames that are asked for one by one, and how each trigger ended
gpio            a line whose edges are triggers; the boundary to libgpiod
pacing          which frames are due: the camera's rate, and the share that the thermal governor grants
frame_counters  captured = classified + dropped + in flight
jpeg            encodes a frame for people

Threads: ``camera-NAME``, one per camera, owned by `Camera`. It ends at the end of a file or after `Camera.stop`, which
also interrupts the source. ``gpio-NAME`` for a camera with a GPIO line, owned by its `GpioTrigger`.
"""
