"""Implicit prompting: frames that nobody sent, made by g from those that it received before."""
