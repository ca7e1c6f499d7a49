"""Clients of registries (OCI distribution-spec): blocking, for worker threads.

`requests` is large and hardly ever wanted: whoever imports `client` or `login` does so when a registry is asked for.
"""
