"""The generated pages of docs/reference: ``make reference`` writes them from the code."""
