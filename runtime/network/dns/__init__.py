"""The name server each container on a user-defined network finds at 127.0.0.11, inside its own network namespace.

`message` is the wire format, `names` who is called what, `view` what one container is answered, `upstream` the rest
of the world's names, `sockets` the container's side of it, and `service` all of them together on the engine's loop.
"""
