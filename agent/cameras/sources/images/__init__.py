"""Images as files.

images: ``all_images``    every image of a folder, once
folder, seen_files        a folder that is watched, and what was taken of it
rewritten_image           an image file that is written again and again
image_file                one image file: read and decoded
slow_images               the time that one image may take
"""
