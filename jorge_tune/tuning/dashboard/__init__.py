"""Optuna's dashboard on the storage of studies: what is attached to them for it, and the server."""
