"""The launcher: a small process with one thread that starts containers and outlives the engine.

It receives descriptors and paths (`protocol`), clones (`runtime.container.start`), hears from children without waiting
for them, and remembers exits until the engine has. What a container is, it does not know.
"""
