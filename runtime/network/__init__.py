"""Container networking on Linux: bridges, addresses, network sandboxes, NAT and published ports.

The engine decides who gets which network and address; these modules make it so in the kernel, by netlink and
libnftables, with no program started. Calls block, but for no longer than the kernel's own work (about 1 ms).

A sandbox's interfaces have IPv6 switched off unless their network has IPv6 addresses (`::1` inside stays). Then
published ports are translated for IPv6 clients too; otherwise a TCP port published on every address of the host is
served for them by `userland`.
"""
