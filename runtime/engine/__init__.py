"""Policy: what a container, an image, a network, a volume is and may become. Knows no HTTP.

`engine.Engine` puts the services together; each service owns one kind of object.
"""
