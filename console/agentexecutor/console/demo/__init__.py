"""The demo: the seed's text classification on real tweets, by agents in processes of their own. The command is `command.demo`."""
