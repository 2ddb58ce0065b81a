"""Cells from the literature, forward only: their backward functions are derived."""
