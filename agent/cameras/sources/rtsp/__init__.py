"""RTSP streams through FFmpeg.

handshake  what a camera answers before FFmpeg opens the stream
digest     the login that a camera asks for
access     password files, and why a camera cannot be opened
stream     the source
"""
