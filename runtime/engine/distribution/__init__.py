"""Images between registries and the store. Blocking work runs in threads of its own, progress comes out on the loop."""
