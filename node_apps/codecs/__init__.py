"""Prompt codecs: the generative ones and the baselines, behind one interface."""
