"""The one drawer and the one page: figures, tables and self-contained HTML reports."""
