"""From a record of the pipeline to a subscriber of the broker."""
