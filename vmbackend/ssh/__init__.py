"""SSH into the guest, inside this process: never the user's ssh program, keys or configuration."""
