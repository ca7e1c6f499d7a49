"""The process that owns one running machine, and how others talk to it.

`python -m vmbackend.hostagent --machine DIR` starts the machine in DIR and serves requests until it is stopped.
"""
