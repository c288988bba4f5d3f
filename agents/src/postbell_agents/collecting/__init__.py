"""The collecting agent: rows from HTTP or a CSV file into a table, resumable, polite to whom they are from."""
