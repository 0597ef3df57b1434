"""Groups of frames, each with a reference of its own, and where these lie to one another."""
