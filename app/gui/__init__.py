"""The desktop window. Qt comes from `app.gui.qt` only; the engine is reached through `app.gui.engine_link` only."""
