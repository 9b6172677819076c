"""Packets, reassembly and router decisions as pure state machines: no I/O, no clock."""
