"""Generate: the teacher invents tasks and their solutions, asked by five approaches."""
