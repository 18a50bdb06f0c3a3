"""Comparisons of finished runs: races, paired contests, statistics, the verdict."""
