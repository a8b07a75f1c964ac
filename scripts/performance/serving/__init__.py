"""The bars of serving, measured in one run: `python -m scripts.performance.serving`.

__main__     the command
contenders   the agent, a real Triton, the libraries alone, and the bare session, each with its clients
libraries    uvicorn and grpcio as servers that compute nothing
rounds       one client's infers, in turns
cameras      the frames of a camera beside requests and beside slow clients
starts       memory and imports of an agent with and without its server
rows         the table: each figure with its bar
"""
