"""Volumes of the local driver: directories that outlive containers, plain or with something mounted on them."""

from runtime.engine.volumes.model import ANONYMOUS_LABEL, Volume, VolumeRequest
from runtime.engine.volumes.mounter import VolumeMounter
from runtime.engine.volumes.service import VolumeService, measure, open_inside

__all__ = ["ANONYMOUS_LABEL", "Volume", "VolumeMounter", "VolumeRequest", "VolumeService", "measure", "open_inside"]
