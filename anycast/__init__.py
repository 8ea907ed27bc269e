"""The fleet: what every part shares, policy, and the `anycast` command."""

__version__ = "0.1.0"
