"""From an OCI bundle to a running process.

`plan` compiles config.json and host facts into phases of small operations, `init` applies them in the child and
executes the program, `spawn` is the parent's half, `join` adds a process to a running container. `cli` and the
verbs beside it serve a bundle from the command line, like runc or crun. The launcher uses the same parts.
"""
