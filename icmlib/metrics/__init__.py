"""What a decoded image costs, how it looks, and what a machine sees in it.

Images are RGB floats in [0, 1]; a decoded image is rounded to 8 bits (`fidelity.to_8bit`) once,
before any metric sees it. Nothing here knows a codec or a task network.
"""
