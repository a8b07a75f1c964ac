"""Tools that people run beside the daemon. The daemon never imports them; ``agent.cli`` starts them.

benchmark     measures engines and the agent's own path, and recommends an engine
clip_camera   serves a video file as a network camera
doctor        examines device, configuration, cameras and broker before the agent starts
find_cameras  finds ONVIF cameras on the network and writes their sources
plan          what a device can carry of a configuration, from measured figures
serve         serves model packages to programs, without cameras
watch         live view of a fleet in the terminal, from its MQTT messages
"""
