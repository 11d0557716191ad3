"""What each sandbox may take of the machine, and what holds it to that."""
