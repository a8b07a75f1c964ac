"""A video file served as a network camera: ``agent demo --rtsp``, for trying a configuration without a camera.

clip      cuts a file into RTP packets, by PyAV
session   one client: the requests of RTSP, and the packets when they are due
server    listens, one thread for each client
"""
