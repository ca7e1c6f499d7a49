"""Container networking on Linux: bridges, addresses, network sandboxes, NAT and published ports.

The engine decides who gets which network and address; these modules make it so in the kernel, by netlink and
libnftables, with no program started. Calls block, but for no longer than the kernel's own work (about 1 ms).

IPv4 only: a sandbox's interfaces have IPv6 switched off (`::1` inside stays). On the host a TCP port
published on every address is served for IPv6 clients by `userland`; UDP over IPv6 is not.
"""
