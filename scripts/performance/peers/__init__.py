"""The agent beside scripts for the same job: one command (scripts/peers), one table.

__main__    the command: turns, alternating
contenders  who is compared, and how each is started
measuring   one turn of one contender
age         the true age of a label: from the frame's push by the server to the label at the subscriber
table       medians, ranges, and how far the agent is from the best
pipeline    the scripts themselves: naive, tuned, PyAV, GStreamer, Triton's client; run in other environments
roboflow    the same with Roboflow's InferencePipeline
"""
