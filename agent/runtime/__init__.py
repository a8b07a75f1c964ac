"""What every package of the agent may use. Imports nothing of ``agent`` and only ``engines`` below it.

errors.py      what the agent raises, with exit codes
logs.py        events with fields, rate limited, without credentials
journal.py     priorities for the systemd journal
secrets.py     passwords, and taking them out of texts
terminal.py    escaping what is written for people
records.py     frame, score, classification, state change
channel.py     bounded hand-over between threads
wait_queue.py  how a thread sleeps in a channel or batcher until it is woken
threads.py     a thread that keeps the exception that ended it
heartbeat.py   a stage's sign of life, for the watchdog
clock.py       time as a parameter
clock_sync.py  whether the clock follows a time server
boot.py        id of this boot, and the time since
backoff.py     waits between attempts, and detection of two clients with one id
statistics.py  percentiles of measured times

No thread is started here: ``StageThread`` is started and joined by its owner.
"""
