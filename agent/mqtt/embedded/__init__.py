"""A private broker for a first try: mosquitto where it is installed, else amqtt in a child process.

broker  starts and ends it
child   the child's own entry
"""
