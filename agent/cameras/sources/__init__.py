"""Where frames come from: one file or folder for each kind of source.

base        the contract: open, read, close, interrupt
lifecycle   shared by all sources: counts, interruption, errors
ffmpeg      the boundary to FFmpeg
decoded_frame  a frame that FFmpeg has decoded: its planes, and the image that it becomes
rtp_pieces  joins the packets of a stream, before the next frame begins
key_frames  which packets of a stream are decoded
video_file  a video file
network_stream  network cameras and streams through FFmpeg
http        cameras that send JPEG images over HTTP
failures, network_errors    why a stream cannot be opened or read, and what to do
reaching    openings that can be left behind, and whether a server is there
images      image files: one, a folder of them, a folder that is watched, a file that is rewritten
decoder     the boundary to OpenCV's VideoCapture
v4l2        USB and other V4L2 cameras
gstreamer   CSI cameras, hardware decoding, custom pipelines
pattern     a moving test pattern
choose      creates the source of a configuration, and probes one

A source has no thread of its own: its camera's thread opens, reads and closes it. `choose.probe_source` starts the
timer ``source-probe``, which ends with the probe; `reaching.Opening` starts ``source-opening``, which ends with the
call that it makes.
"""
