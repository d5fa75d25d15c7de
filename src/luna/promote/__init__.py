"""Deciding on a generation: four gates, the evolution manifest, and the verdict in generation.json."""
