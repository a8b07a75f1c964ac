"""USB and other V4L2 cameras.

device        checks of the device file: present, accessible, held by which process
modes         formats, sizes and rates that the driver lists
usb_identity  finds a camera on any port, detects swapped cameras
camera        the source
"""
