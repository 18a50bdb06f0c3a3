"""The best length of a step along the optimizer's own direction, measured without a trace."""
