"""Times engines: one child process per engine, the rounds interleaved.

target     an engine in a precision, or the bare session
session    one child process, from the parent's side
child      the same process from the inside: opens one engine, answers requests
blocks     the timed loop, runs in the child
bare       ONNX Runtime without our code, for comparison
accuracy   top-1 and top-5 on labelled images, runs in the child
rounds     all children: a block of each per round
soak       one engine for minutes
assemble   blocks to results
"""
