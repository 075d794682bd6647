"""Comparisons and pictures for the README, each rebuilt by one command."""
