"""What GStreamer reads: CSI cameras, hardware decoders, a pipeline of the configuration.

pipelines  the text of a pipeline for a configuration
library    the boundary to GStreamer, which nothing else imports
camera     the source
"""
