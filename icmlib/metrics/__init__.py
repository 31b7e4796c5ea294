"""What a decoded image costs, how it looks, and what a machine sees in it."""
