"""The command line: what people and scripts use to run, submit to, look at and steer a bus of agents. Nothing imports it."""
