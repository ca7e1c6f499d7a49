"""The guest image: the kernel and system a machine boots, described by `contract.json` beside them."""
