"""The coordinator: what it hears of the fleet, what it decides, and what it remembers of both. It forwards no packet."""
