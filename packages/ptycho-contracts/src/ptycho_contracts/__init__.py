"""Contracts of the ptycho suite: arrays, records, configuration, errors."""
