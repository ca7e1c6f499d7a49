"""The guest's services on this computer: the engine's socket, and published ports."""
