"""The one error a guest build ends with."""


class BuildError(Exception):
    """The image cannot be built: one sentence with the object, the reason and the remedy."""
