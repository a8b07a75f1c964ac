"""RTSP streams through FFmpeg.

handshake  a DESCRIBE request before FFmpeg opens the stream: distinguishes the errors that FFmpeg does not
digest     Basic and Digest authentication
access     reads the password file; error messages for a camera that cannot be opened
stream     the source
"""
