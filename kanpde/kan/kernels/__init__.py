"""What a KAN layer computes piece by piece: its values, its jets, and the Jacobian of a network by its weights."""
