"""A page for people: the agent's own messages, images and commands in a browser.

feed      keeps the newest message of every topic, the last events and the last warnings
access    who may see the page: a token, a session's cookie, or the header of a proxy
images    the newest frame of a camera as JPEG, encoded once for all who look
files     the page's files, which are in `static`
sources   what the page shows and does, as functions that the agent gives it
bundle    a support bundle to download
routes    all calls below `/page`

The page shows the messages that subscribers get, in the same form; docs/mqtt.md describes them. Nothing is encoded or
sent while nobody looks.
"""
