"""Building images: what is asked for, the files it works on, steps, their cache, and what a client is told.

A step works on a snapshot, without a container anybody sees; the changes become a layer by one walk over them, which
writes and hashes the layer's tar, and one rename. Nothing of a build that was killed survives: steps run below names
the store does not know, contexts are files without names, layers are kept from `seal` on.
"""

from runtime.engine.build.request import BuildRequest
from runtime.engine.build.service import BuildService

__all__ = ["BuildRequest", "BuildService"]
