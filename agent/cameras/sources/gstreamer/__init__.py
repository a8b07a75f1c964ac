"""Sources through GStreamer: CSI cameras, hardware decoding, custom pipelines.

pipelines  builds the pipeline description of a configuration
library    the boundary to GStreamer; the only module that imports it
camera     the source
"""
