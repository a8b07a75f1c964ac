"""From a camera's frames to decided labels.

pipeline         all cameras and workers of one configuration: start, apply a new configuration, stop
stopping         ends cameras and workers within their deadlines
routing          which classifier of which camera is served by which worker
binding          one classifier of one camera, as its worker sees it
fair_queue       the order of frames that wait: fair shares within a priority, a minimum for lower ones
batcher          the requests of one worker: the newest frame of live cameras, queues for files
requests         requests of programs: their queue beside the frames, their counts and durations
worker           the thread of one model: batch, resize, infer, decide
engine_slot      a worker's engine: load, serve, replace, close
engine_return    brings a remote engine back while a local one serves in its place
engine_opening   opens the engine that the configuration asks for, or under heat a prepared one
features         from a model's embedding to the numbers that are published
decisions        from scores to the published record, and to stable labels
rate_sharing     shares the governor's ratio among cameras by priority
heat_levers      large batches and cheaper engines, for the thermal governor
supervision      interrupts hanging calls of an engine

Threads: ``worker-MODEL`` opens, runs and closes an engine; ``worker-MODEL-next`` does so for its replacement, and
serves from the moment it takes over. Both are owned by the worker's `EngineSlot`, and end when the batcher is closed
(`Worker.stop`) or, after a replacement, when the other thread takes over. The main thread calls `Pipeline.tick`, which
ends stale labels and brings remote engines back. The camera threads are in `agent.cameras`.
"""
