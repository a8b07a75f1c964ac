"""Cameras that send JPEG images over HTTP.

camera       snapshots and MJPEG streams
jpeg_stream  the parts of a ``multipart/x-mixed-replace`` stream
time_limit   bounds a whole exchange
"""
