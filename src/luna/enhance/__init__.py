"""Enhance: the student attempts, the judge decides, the teacher hints, the student tries again."""
