"""Metrics, frontiers, baselines, intervals and the verdict."""
