"""What every run has, whoever trains it: its directory, its records, its end. No torch."""
