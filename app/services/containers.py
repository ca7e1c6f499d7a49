"""Use cases around containers that take more than one call of the engine's API."""

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.errors import EngineError
from app.engine.models import CreatedContainer
from app.services.run_options import RunOptions, container_config

__all__ = ["MissingImage", "RunOptions", "create", "run_detached"]


class MissingImage(UserError):
    """The engine does not have it."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"There is no image {reference!r} here.",
            f"Get it with `wherry pull {reference}`, or from a file with `wherry load -i FILE`.",
        )


def create(client: EngineClient, options: RunOptions, attached: bool = False) -> CreatedContainer:
    """Make the container, without starting it.

    Raises UserError for options that make no sense, MissingImage, else EngineError.
    """
    config = container_config(options, attached)
    try:
        return client.create_container(config, options.name)
    except EngineError as failure:
        if failure.is_not_found and failure.message.lower().startswith("no such image"):
            raise MissingImage(options.image) from failure
        raise


def run_detached(client: EngineClient, options: RunOptions) -> str:
    """Make and start the container; its id. One that cannot start is removed again.

    Raises as `create` does.
    """
    container = create(client, options)
    try:
        client.start_container(container.id)
    except EngineError:
        client.remove_container(container.id, force=True)
        raise
    return container.id
