"""The scene of the test card, drawn from nothing: no photograph, and nobody's likeness.

Units are 1/720 of the picture's height throughout.
"""
