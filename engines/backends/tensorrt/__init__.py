"""The native TensorRT engine, versions 8.5 to 11: built on the device in a child process, cached, checked, run.

options.py  library.py                options; the library, its versions and its log
job.py  builder.py  build_child.py    a build: the job, the build itself, its process
plans.py                              the plan that this device needs, from the cache or built
cuda/  buffers.py                     the boundary to CUDA, through either of two libraries; pinned memory
session.py                            a loaded plan
crash_counter.py                      plans that crash the process are not loaded for ever
engine.py                             the engine, and from a package to an open engine
"""
