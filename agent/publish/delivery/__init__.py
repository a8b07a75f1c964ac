"""What is sent next, and what became of it.

delivery          decides what is sent next and follows each packet to its confirmation
flights           packets on their way, until the broker confirms them
retained_values   the newest value of each retained topic
retained_topics   which retained topics of cameras the broker may hold, so that old ones can be cleared
waiting_events    events that wait for their turn, with the outbox behind them
held_topics, suspects    topics that wait because the broker refused them, or closed the connection on them
send_rate         the limit over all topics
counters          what was sent, dropped, refused
"""
