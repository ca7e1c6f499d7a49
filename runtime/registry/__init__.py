"""Clients of registries (OCI distribution-spec)."""
