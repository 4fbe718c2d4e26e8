"""Figures of stored archives. Functions draw on Axes they are given and return them; none touches pyplot."""
