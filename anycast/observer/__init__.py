"""`anycast observe`: what routers outside the sites have of the service, over receive-only BGP sessions."""
