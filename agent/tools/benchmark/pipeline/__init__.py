"""Measures the agent's own path: a real agent process, a real broker, a subscriber with a clock.

agent_process   ``agent run`` as a child process
subscriber      receives what the agent publishes and notes when
run             one measurement per camera setup
"""
