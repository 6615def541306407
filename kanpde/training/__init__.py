"""Training: a plan made and checked once, the loss at points, and the loop that makes it small."""
