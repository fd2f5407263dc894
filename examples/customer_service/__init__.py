"""A customer service on the bus: every box of the seed's figure 1 is an agent, every turn of a conversation a task (see README.md)."""
