"""Directories of this computer inside the machine.

The guest mounts each share as a FUSE file system whose requests come here over a connection of their own: one way for
every operating system, it survives a saved and resumed machine, shares come and go while the machine runs, owners that
containers give to files are kept, and a change made on this computer becomes an inotify event in the guest.
"""
