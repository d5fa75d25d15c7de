"""Replay: some of what earlier generations learned is learned again, so that it is not forgotten."""
