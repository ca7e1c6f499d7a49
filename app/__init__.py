"""The desktop application and the command line. Both speak the Engine API and know nothing of its inside."""

__version__ = "0.1.0"
