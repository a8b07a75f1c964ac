"""Where frames come from: one file or folder for each kind of source.

base        the contract: open, read, close, interrupt
lifecycle   shared by all sources: counts, interruption, errors
decoder     the boundary to OpenCV's VideoCapture (FFmpeg, V4L2)
decoded     base class of the sources over a `Decoder`
video_file  a video file
images      a folder of images
rtsp        network cameras through FFmpeg
v4l2        USB and other V4L2 cameras
gstreamer   CSI cameras, hardware decoding, custom pipelines
pattern     a moving test pattern
choose      creates the source of a configuration, and probes one

A source has no thread of its own: its camera's thread opens, reads and closes it. `choose.probe_source` starts the
timer ``source-probe``, which ends with the probe.
"""
