"""Coordinating: the pure machine (states, decide, evolve, pending), the market that finds agents, leases, and one asynchronous shell."""
