"""Installs the hub's peers, drives them and the hub with `swarm`, and writes down what it found.

Files: `machine` (where we are, what is in the way), `processes` (servers: start, ready, stop), `peers` (how each server
is installed and configured), `load` (calls of swarm), `parts` (one file per measurement), `report`.
Only the standard library is used.
"""
