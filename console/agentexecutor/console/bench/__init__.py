"""The bench: what a user's own server, coordinators and agents do in a second, beside what the server alone does. The command is `command.bench`."""
