"""Tries every kind of camera and file that people have, and writes the table of docs/camera-kinds.md.

    python -m scripts.camera_kinds [--only TEXT] [--output docs/camera-kinds.md]

kinds      the contract of a kind, and what a trial of it says
trial      opens and reads one, takes its server away and brings it back
files      videos, made by the program ffmpeg
images     image files
cameras    network cameras: RTSP by GStreamer's server and by the one of the tests, HTTP
streams    HLS, RTMP, SRT, MPEG-TS, by the program ffmpeg
faults     what is no camera, or a broken one
servers    the processes that serve them
rtsp_gst   an RTSP server by GStreamer; runs in the system's Python
"""
