"""The container runtime: Linux only, the standard library and very few packages.

Imports go downwards only: daemon, api, engine, {network, content, registry, cgroups, launcher.protocol}, oci,
linux; and launcher, container, cgroups, oci, linux.
"""

__version__ = "0.1.0"
