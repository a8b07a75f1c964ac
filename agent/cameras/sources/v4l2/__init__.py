"""USB and other V4L2 cameras.

device        the device file: whether it is there, may be opened, and who holds it
modes         sizes, rates and formats that it offers
usb_identity  the same camera on another port
camera        the source
"""
