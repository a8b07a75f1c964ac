"""The native TensorRT engine, versions 8.5 to 11: built on the device in a child process, kept, proven, run.

options.py  library.py  what is configured; the library itself, its versions and its log
job.py  builder.py  build_child.py   a build: what is asked, how it is done, the process it is done in
plans.py    which plan this device needs, from the cache or built
cuda.py  graphs.py  buffers.py       device, stream and errors; CUDA graphs; pinned memory
session.py  crash_counter.py  engine.py  load.py    a loaded plan, its crashes, the engine around it, loading it
"""
