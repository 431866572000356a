"""Kinds of task: what is labelled, how a model of that kind is measured, and what reports show of it."""
