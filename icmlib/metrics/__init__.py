"""What a decoded image costs, how it looks, and what a machine sees in it.

Images are RGB in [0, 1], rounded to 8 bits once."""
