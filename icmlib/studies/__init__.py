"""What only these studies need. They alone know `results/` and the notebooks' profiles."""
