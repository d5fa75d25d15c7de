"""The frozen eval set: made once for the whole ladder, from problems that no training text holds."""
