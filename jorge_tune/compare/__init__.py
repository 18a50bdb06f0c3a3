"""Finished runs set against each other: races, contests, statistics, the verdict."""
