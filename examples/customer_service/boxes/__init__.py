"""The boxes of the seed's figure, each an agent: ``agentexecutor agent examples.customer_service.boxes.dialogue:agent`` (README.md has the map)."""
