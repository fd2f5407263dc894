"""Tools that a plan may use, each an agent that anybody can start: files inside a folder, HTTP to hosts that are listed, a calculator."""
