"""Tools that people run beside the daemon. The daemon never imports them; ``agent.cli`` starts them.

benchmark   measures engines and the agent's own path, and recommends an engine
doctor      examines device, configuration, cameras and broker before the agent starts
serve       serves model packages to programs, without cameras
watch       live view of a fleet in the terminal, from its MQTT messages
"""
