"""A module for each command: `configure(parser)` says what it takes, `run(context, arguments)` does it.

`run` returns the exit code and raises UserError for what a person should read.
"""
