"""Measuring a model on the frozen eval set: accuracy with its uncertainty, tone drift, broken laws."""
