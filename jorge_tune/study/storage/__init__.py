"""Storages of studies: addresses, opening, patience, claims."""
