"""Optuna's dashboard on the storage of studies: attachments, notes and the server."""
