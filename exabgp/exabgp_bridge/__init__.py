"""The process that ExaBGP starts: it holds the lease on the route and withdraws when nobody renews it."""
