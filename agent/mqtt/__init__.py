"""The connection to the broker, its topics and its messages."""
