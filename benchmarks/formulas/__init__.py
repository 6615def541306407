"""Functions fitted from rows, and the formulas that are found."""
